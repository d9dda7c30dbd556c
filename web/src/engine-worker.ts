/** The leader: it loads the weights into the engine's memory, runs it, and answers the page. */
import { Engine, TILE, type Helper } from "./engine";
import { loadFiles, loadWhole, type Downloading, type Progress } from "./download";
import { cancelled, LabError } from "./errors";
import { openStore } from "./store";
import { Sampler } from "./sampler";
import type { Generated, GenerateRequest, Loaded, LoadRequest, Reply, Request } from "./protocol";

let engine: Engine | null = null;
let tokens: number[] = []; // in the cache
const running = new Map<number, AbortController>();
const pending: { id: number; request: Request }[] = [];
let busy = false;

function reply(message: Reply): void {
  postMessage(message);
}

onmessage = ({ data }: MessageEvent<{ id: number; request: Request }>) => {
  if (data.request.kind === "cancel") {
    running.get(data.request.of)?.abort();
    return;
  }
  running.set(data.id, new AbortController());
  pending.push(data);
  if (!busy) void work();
};

/** One request at a time: there is one cache. */
async function work(): Promise<void> {
  busy = true;
  for (let next = pending.shift(); next; next = pending.shift()) {
    const { id, request } = next;
    try {
      reply({ id, kind: "done", result: await answer(id, request, running.get(id)!.signal) });
    } catch (error) {
      reply({ id, kind: "failed", error: LabError.pack(error) });
    }
    running.delete(id);
  }
  busy = false;
}

function answer(id: number, request: Request, signal: AbortSignal): Promise<unknown> {
  switch (request.kind) {
    case "load":
      return load(id, request, signal);
    case "generate":
      return generate(id, request, signal);
    case "logits":
      return logitsOf(request.ids, signal);
    case "measure":
      return measure(request.tokens, signal);
    default:
      throw new LabError("input", "the worker does not know this request");
  }
}

async function load(id: number, request: LoadRequest, signal: AbortSignal): Promise<Loaded> {
  const start = performance.now();
  const { manifest } = request;
  const decoder = manifest.engine.decoder!;
  const store = await openStore(request.store);
  const onProgress = (progress: Progress) => reply({ id, kind: "progress", progress });
  const task: Downloading = { base: new URL(request.base), manifest, store, signal, onProgress };
  const module = await compile(task, request.variant);
  const sizes = manifest.pieces.map((name) => manifest.files[name].bytes);
  const made = Engine.reserve(module, decoder, sizes, request.positions, request.threads);
  const progress = await loadFiles(task, manifest.pieces, (name) => {
    const index = manifest.pieces.indexOf(name);
    return made.piece(index, sizes[index]);
  });
  made.open().forEach(startHelper);
  engine = made;
  const seconds = (performance.now() - start) / 1e3;
  return { bytes: made.bytes, store: store.kind, fetched: progress.fetched, seconds };
}

/** The engine; the one without relaxed instructions where those are not what they should be. */
async function compile(task: Downloading, variant: "relaxed" | "plain"): Promise<WebAssembly.Module> {
  const module = await WebAssembly.compile(await loadWhole(task, `engine-${variant}.wasm`));
  if (Engine.holds(module)) return module;
  if (variant === "relaxed") return compile(task, "plain");
  throw new LabError("unsupported", "this browser's vector instructions give wrong results", "update it");
}

/** A helper that fails to start is not missed: the leader never waits for one. */
function startHelper(helper: Helper): void {
  try {
    const worker = new Worker(new URL("./helper-worker.js", import.meta.url), { type: "module" });
    worker.postMessage(helper);
  } catch {
    // without it
  }
}

function opened(): Engine {
  if (!engine) throw new LabError("disposed", "no model is loaded");
  return engine;
}

/** Let messages in, such as one that cancels. */
const channel = new MessageChannel();
function breathe(signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    channel.port1.onmessage = () => (signal.aborted ? reject(cancelled()) : resolve());
    channel.port2.postMessage(0);
  });
}

/** Bring the cache to hold `ids`; returns how many had to be computed. What it shares is kept. */
async function read(ids: number[], signal: AbortSignal): Promise<number> {
  const model = opened();
  let shared = 0;
  while (shared < Math.min(tokens.length, ids.length - 1) && tokens[shared] === ids[shared]) shared++;
  model.rewind(shared);
  tokens.length = shared;
  for (let at = shared; at < ids.length; at += TILE) {
    await breathe(signal);
    const part = ids.slice(at, at + TILE);
    model.step(part);
    tokens.push(...part);
  }
  return ids.length - shared;
}

async function generate(id: number, request: GenerateRequest, signal: AbortSignal): Promise<Generated> {
  const model = opened();
  if (!request.ids.length) throw new LabError("input", "there are no tokens to run", "give a prompt");
  const start = performance.now();
  const sampler = new Sampler(request.sampling);
  const ends = new Set(request.ends);
  const prompt = await read(request.ids, signal);
  let index = (prompt - 1) % TILE;
  const times: number[] = [];
  let firstMs = 0;
  let last = performance.now();
  for (let count = 0; ; count++) {
    await breathe(signal);
    const token = sampler.next(model.logits(index), tokens);
    if (!count) firstMs = performance.now() - start;
    const reason = ends.has(token) ? "end" : null;
    const msPerToken = times.sort((a, b) => a - b)[times.length >> 1] ?? 0;
    if (reason) return { tokens: count, reason, prompt, firstMs, msPerToken };
    reply({ id, kind: "token", token });
    if (count + 1 >= request.maxTokens || model.cached >= model.positions) {
      return { tokens: count + 1, reason: "length", prompt, firstMs, msPerToken };
    }
    model.step([token]);
    tokens.push(token);
    index = 0;
    const now = performance.now();
    if (count) times.push(now - last);
    last = now;
  }
}

/** The logits after each token, for tests and measures of quality. */
async function logitsOf(ids: number[], signal: AbortSignal): Promise<Float32Array> {
  const model = opened();
  const all = new Float32Array(ids.length * model.vocab);
  model.rewind(0);
  tokens = [];
  for (let at = 0; at < ids.length; at += TILE) {
    await breathe(signal);
    const part = ids.slice(at, at + TILE);
    model.step(part);
    part.forEach((_, i) => all.set(model.logits(i), (at + i) * model.vocab));
  }
  model.rewind(0);
  return all;
}

/** Milliseconds for one token, the median of some, and for a prompt of a whole tile. */
async function measure(count: number, signal: AbortSignal): Promise<{ msPerToken: number; promptMs: number }> {
  const model = opened();
  const reset = () => (model.rewind(0), (tokens = []));
  reset();
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    await breathe(signal);
    const start = performance.now();
    model.step([i + 1]);
    model.likeliest(model.logits(0));
    times.push(performance.now() - start);
  }
  reset();
  const start = performance.now();
  model.step(Array.from({ length: TILE }, (_, i) => i + 1));
  model.logits(TILE - 1);
  const promptMs = performance.now() - start;
  reset();
  return { msPerToken: times.sort((a, b) => a - b)[count >> 1], promptMs };
}
