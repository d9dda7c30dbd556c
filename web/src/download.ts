/** Files of a bundle: from the store or the network, range by range, each verified before it is used.
 *
 * A range that does not have its hash is asked for again, some times; then the load fails. What does
 * not have its hash is neither used nor stored.
 */
import { cancelled, check, LabError } from "./errors";
import type { File, Manifest } from "./manifest";
import type { Store } from "./store";

const AT_ONCE = 3; // ranges
const PART = 256 << 10; // bytes that are read at once
const ATTEMPTS = 4;
const PAUSE = 300; // milliseconds, doubled with each attempt

export interface Progress {
  loaded: number; // bytes
  total: number;
  fetched: number; // of those loaded, from the network
}

export interface Downloading {
  base: URL;
  manifest: Manifest;
  store: Store;
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
}

interface Range {
  index: number;
  offset: number;
  bytes: number;
  sha256: string;
}

export async function sha256(content: Uint8Array<ArrayBuffer>): Promise<string> {
  if (!globalThis.crypto?.subtle) {
    throw new LabError("unsupported", "this page cannot verify what it loads", "serve it by https, or on localhost");
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Load files into memory; `into` gives the place of each. Those first in the list come first. */
export async function loadFiles(
  task: Downloading,
  names: string[],
  into: (name: string) => Uint8Array,
): Promise<Progress> {
  const files = names.map((name) => [name, task.manifest.files[name]] as const);
  const progress = { loaded: 0, total: files.reduce((sum, [, file]) => sum + file.bytes, 0), fetched: 0 };
  const arrived = (bytes: number, fetched: boolean) => {
    progress.loaded += bytes;
    if (fetched) progress.fetched += bytes;
    task.onProgress?.({ ...progress });
  };
  const largest = Math.min(Math.max(...files.map(([, file]) => file.bytes)), task.manifest.range);
  const spaces: Uint8Array<ArrayBuffer>[] = []; // for all files: what arrives leaves no garbage
  const space = (index: number) => (spaces[index] ??= new Uint8Array(largest));
  for (const [name, file] of files) {
    await exclusively(file.sha256, task, () => loadFile(task, name, file, into(name), space, arrived));
  }
  if (progress.loaded !== progress.total) throw new LabError("engine", "a range was left out");
  return progress;
}

/** A file of moderate size, whole. */
export async function loadWhole(task: Downloading, name: string): Promise<Uint8Array<ArrayBuffer>> {
  const file = task.manifest.files[name];
  if (!file) throw new LabError("missing", `the bundle has no ${name}`);
  const content = new Uint8Array(file.bytes);
  await loadFiles({ ...task, onProgress: undefined }, [name], () => content);
  return content;
}

/** One tab at a time loads a file; the others then find it in the store. */
async function exclusively(hash: string, task: Downloading, work: () => Promise<void>): Promise<void> {
  if (task.store.kind === "none" || typeof navigator === "undefined" || !navigator.locks) return work();
  try {
    await navigator.locks.request(`llmkg-lab:${hash}`, { signal: task.signal }, work);
  } catch (error) {
    throw task.signal?.aborted ? cancelled() : error;
  }
}

async function loadFile(
  task: Downloading,
  name: string,
  file: File,
  into: Uint8Array,
  space: (index: number) => Uint8Array<ArrayBuffer>,
  arrived: (bytes: number, fetched: boolean) => void,
): Promise<void> {
  let whole = false; // whether the server knows no ranges
  const missing: Range[] = [];
  const keep = async (range: Range, content: Uint8Array<ArrayBuffer>) => {
    into.set(content, range.offset);
    await stored(task, file.sha256, range.offset, content);
    arrived(range.bytes, true);
  };
  try {
    for (const range of rangesOf(file, task.manifest.range)) {
      check(task.signal);
      const content = space(0).subarray(0, range.bytes);
      const there = await task.store.read(file.sha256, range.offset, content).catch(() => false);
      if (there && (await sha256(content)) === range.sha256) {
        into.set(content, range.offset);
        arrived(range.bytes, false);
      } else missing.push(range);
    }
    const next = async (index: number) => {
      while (missing.length && !whole) {
        const range = missing.shift()!;
        const part = space(index).subarray(0, range.bytes);
        if (await fetchVerified(task, name, file, range, part)) await keep(range, part);
        else {
          missing.push(range);
          whole = true;
        }
      }
    };
    await inParallel(Array.from({ length: Math.min(AT_ONCE, missing.length) }, (_, i) => () => next(i)));
    if (missing.length) await fetchWhole(task, name, missing, keep);
  } finally {
    await task.store.close(file.sha256).catch(() => undefined);
  }
}

/** All of them; the first failure is the result, but nobody is left running. */
async function inParallel(work: (() => Promise<void>)[]): Promise<void> {
  const results = await Promise.allSettled(work.map((one) => one()));
  const failed = results.find((result) => result.status === "rejected");
  if (failed) throw failed.reason;
}

async function stored(task: Downloading, hash: string, offset: number, content: Uint8Array<ArrayBuffer>): Promise<void> {
  try {
    await task.store.write(hash, offset, content);
  } catch {
    // the quota: older models go; where that is not enough, this one is loaded and not kept
    await task.store.evict(content.length, new Set([hash])).catch(() => undefined);
    await task.store.write(hash, offset, content).catch(() => undefined);
  }
}

function* rangesOf(file: File, size: number): Generator<Range> {
  const hashes = file.ranges ?? [file.sha256];
  for (let index = 0; index < hashes.length; index++) {
    const offset = index * size;
    const bytes = Math.min(file.bytes - offset, hashes.length === 1 ? file.bytes : size);
    yield { index, offset, bytes, sha256: hashes[index] };
  }
}

/** Fill `into` with a range that has its hash; false where the server answers with the whole file. */
async function fetchVerified(
  task: Downloading,
  name: string,
  file: File,
  range: Range,
  into: Uint8Array<ArrayBuffer>,
): Promise<boolean> {
  return persistently(task, async () => {
    const partial = range.bytes < file.bytes;
    const headers: HeadersInit = partial ? { Range: `bytes=${range.offset}-${range.offset + range.bytes - 1}` } : {};
    const answer = await ask(task, name, headers);
    if (partial && answer.status !== 206) {
      await answer.body?.cancel();
      return false;
    }
    await fill(name, answer, into);
    await verify(name, into, range);
    return true;
  });
}

/** The answer's body into memory that is there; it must be of that size. */
async function fill(name: string, answer: Response, into: Uint8Array<ArrayBuffer>): Promise<void> {
  const reader = readerOf(answer.body!);
  let filled = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (filled + value.length > into.length) {
      await reader.cancel();
      throw new LabError("damaged", `${name} goes on where it should end`, "upload the folder again");
    }
    into.set(value, filled);
    filled += value.length;
  }
  if (filled < into.length) throw truncated(name);
}

interface PartReader {
  /** The next part, which is gone when the one after it is read. */
  read(): Promise<ReadableStreamReadResult<Uint8Array<ArrayBuffer>>>;
  cancel(): Promise<void>;
}

/** Reads a body into one buffer, again and again: its parts would lie in memory for long as garbage. */
function readerOf(body: ReadableStream<Uint8Array<ArrayBuffer>>): PartReader {
  let reader: ReadableStreamBYOBReader;
  try {
    reader = body.getReader({ mode: "byob" });
  } catch {
    return body.getReader(); // a browser that makes a buffer for each part
  }
  let buffer = new ArrayBuffer(PART);
  const read = async () => {
    const result = await reader.read(new Uint8Array(buffer));
    if (result.value) buffer = result.value.buffer;
    return result as ReadableStreamReadResult<Uint8Array<ArrayBuffer>>;
  };
  return { read, cancel: () => reader.cancel() };
}

/** The whole file in one stream, cut into its ranges. */
async function fetchWhole(
  task: Downloading,
  name: string,
  missing: Range[],
  keep: (range: Range, content: Uint8Array<ArrayBuffer>) => Promise<void>,
): Promise<void> {
  await persistently(task, async () => {
    const answer = await ask(task, name, {});
    const reader = readerOf(answer.body!);
    let held: Uint8Array<ArrayBuffer> | null = null;
    let at = 0; // of the held part's beginning
    const take = async (bytes: number) => {
      const part = new Uint8Array(bytes);
      let filled = 0;
      while (filled < bytes) {
        if (!held?.length) {
          const { done, value } = await reader.read();
          if (done) throw truncated(name);
          held = value;
        }
        const used = held.subarray(0, bytes - filled);
        part.set(used, filled);
        filled += used.length;
        held = held.subarray(used.length);
      }
      at += bytes;
      return part;
    };
    try {
      for (const range of [...missing].sort((a, b) => a.offset - b.offset)) {
        if (range.offset > at) await take(range.offset - at);
        const content = await take(range.bytes);
        await verify(name, content, range);
        await keep(range, content);
        missing.splice(missing.indexOf(range), 1);
      }
    } finally {
      await reader.cancel().catch(() => undefined);
    }
  });
}

async function ask(task: Downloading, name: string, headers: HeadersInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(new URL(name, task.base), { headers, signal: task.signal });
  } catch (error) {
    if (task.signal?.aborted) throw cancelled();
    throw new LabError("network", `${name}: ${(error as Error).message}`, "check the connection, and try again");
  }
  if (answer.ok) return answer;
  await answer.body?.cancel();
  if (answer.status === 404 || answer.status === 410) {
    throw new LabError("missing", `the server has no ${name}`, "upload the whole folder");
  }
  if (answer.status === 416) throw truncated(name); // a range that lies behind its end
  throw new LabError("network", `${name}: the server answers ${answer.status}`, "try again later");
}

function truncated(name: string): LabError {
  return new LabError("damaged", `${name} ends too early`, "upload the folder again");
}

async function verify(name: string, content: Uint8Array<ArrayBuffer>, range: Range): Promise<void> {
  if (content.length !== range.bytes) throw truncated(name);
  if ((await sha256(content)) !== range.sha256) {
    throw new LabError("damaged", `${name} is not what the manifest says (range ${range.index})`, "upload the folder again");
  }
}

/** Try some times; a file that is not there, and a cancellation, are final. */
async function persistently<T>(task: Downloading, work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    check(task.signal);
    try {
      return await work();
    } catch (error) {
      if (task.signal?.aborted) throw cancelled();
      const known = error instanceof LabError ? error : new LabError("network", String((error as Error)?.message ?? error));
      if (known.kind === "missing" || attempt === ATTEMPTS) throw known;
      await pause(PAUSE * 2 ** (attempt - 1), task.signal);
    }
  }
}

function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(cancelled())), { once: true });
  });
}
