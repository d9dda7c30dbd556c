/** The public face: `import { load } from "./llmkg-lab.js"`. */
import { candidates, checkInstructions, checkMemory, engineVariant, ENGINES, Fastest, type Opened, type Wanted } from "./choice";
import { DecoderModel, type TextModel } from "./decoder-model";
import { detect, mostThreads, type Device } from "./device";
import { loadWhole, type Downloading, type Progress } from "./download";
import { InOrt, InPlace, InWorker, longestText } from "./encoder-computing";
import { EmbeddingModel, RankingModel, type Computing } from "./encoder-model";
import { loadEncoder as loadEncoderEngine } from "./engine-loading";
import { cancelled, check, LabError } from "./errors";
import { MANIFEST, parseManifest, type Manifest } from "./manifest";
import { openSession } from "./ort";
import type { Loaded, Variant } from "./protocol";
import { ServerModel } from "./server-model";
import { openStore } from "./store";
import { TextTokenizer } from "./text";
import { WorkerClient } from "./worker-client";

export { cosine, EmbeddingModel, RankingModel } from "./encoder-model";
export type { Choice } from "./choice";
export { DecoderModel, type GenerateOptions, type TextModel } from "./decoder-model";
export { detect, type Device } from "./device";
export { LabError, type ErrorKind } from "./errors";
export { openStore } from "./store";
export type { Message } from "./text";
export { MANIFEST, parseManifest, type Manifest } from "./manifest";
export type { Progress } from "./download";

export type Model = TextModel | EmbeddingModel | RankingModel;

export interface LoadOptions extends Wanted {
  signal?: AbortSignal;
  onProgress?: (progress: Progress & { secondsLeft: number }) => void;
  positions?: number; // tokens that prompt and answer may have together
  store?: "auto" | "opfs" | "cache" | "none";
  smaller?: string[]; // bundles to take, the first that fits, where this device has too little memory
  server?: string; // where to go where this device cannot
}

const POSITIONS = 2048; // by default; the cache of more takes memory that few conversations use

/** Load the bundle at `url`, or what stands in for it. Rejects with LabError. */
export async function load(url: string | URL, options: LoadOptions = {}): Promise<Model> {
  const base = folderOf(url);
  const [manifest, device] = await Promise.all([fetchManifest(base, options.signal), detect()]);
  try {
    return await loadHere(base, manifest, device, options);
  } catch (error) {
    const known = LabError.from(error);
    if (known.kind === "memory") {
      const smaller = [...(options.smaller ?? []), ...(manifest.smaller ?? []).map((name) => new URL(name, base))];
      const model = await loadSmaller(smaller, manifest, device, options);
      if (model) return explained(model, `${known.message}; this is a smaller one`);
    }
    const elsewhere = known.kind === "memory" || known.kind === "unsupported";
    if (!options.server || !elsewhere || manifest.task !== "text-generation") throw known;
    const why = `${known.message}; so a server answers`;
    return ServerModel.open(new URL(options.server, location.href), manifest.name, why, options.signal);
  }
}

function folderOf(url: string | URL): URL {
  const base = new URL(url, location.href);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  return base;
}

async function loadHere(base: URL, manifest: Manifest, device: Device, options: LoadOptions): Promise<Model> {
  checkInstructions(device);
  if (manifest.task === "text-generation") return loadDecoder(base, manifest, device, options);
  return loadEncoder(base, manifest, device, options);
}

/** The first of these bundles that does the same task and fits; null where none does. */
async function loadSmaller(
  urls: (string | URL)[],
  than: Manifest,
  device: Device,
  options: LoadOptions,
): Promise<Model | null> {
  for (const base of urls.map(folderOf)) {
    const manifest = await fetchManifest(base, options.signal);
    if (manifest.task !== than.task || manifest.bundle_size >= than.bundle_size) continue;
    try {
      return await loadHere(base, manifest, device, options);
    } catch (error) {
      const known = LabError.from(error);
      if (known.kind !== "memory") throw known;
    }
  }
  return null;
}

function explained(model: Model, why: string): Model {
  model.choice.why = `${why}; ${model.choice.why}`;
  return model;
}

async function fetchManifest(base: URL, signal?: AbortSignal): Promise<Manifest> {
  check(signal);
  let answer: Response;
  let text: string;
  try {
    answer = await fetch(new URL(MANIFEST, base), { signal });
    text = await answer.text();
  } catch (error) {
    if (signal?.aborted) throw cancelled();
    throw new LabError("network", `${base}: ${(error as Error).message}`, "check the address and the connection");
  }
  if (!answer.ok) throw new LabError("missing", `${base} has no ${MANIFEST}`, "give the address of a bundle");
  return parseManifest(text);
}

async function readJson(task: Downloading, name: string): Promise<Record<string, unknown>> {
  if (!task.manifest.files[name]) return {};
  return JSON.parse(new TextDecoder().decode(await loadWhole(task, name)));
}

async function loadTokenizer(task: Downloading): Promise<TextTokenizer> {
  const names = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"];
  const [tokenizer, config, generation, model] = await Promise.all(names.map((name) => readJson(task, name)));
  return new TextTokenizer(tokenizer, config, generation, model);
}

/** Progress with the time that is left, by the rate so far. */
function timed(options: LoadOptions): (progress: Progress) => void {
  const start = performance.now();
  return (progress) => {
    const seconds = (performance.now() - start) / 1e3;
    const secondsLeft = progress.loaded ? (seconds * (progress.total - progress.loaded)) / progress.loaded : Infinity;
    options.onProgress?.({ ...progress, secondsLeft });
  };
}

async function loadDecoder(base: URL, manifest: Manifest, device: Device, options: LoadOptions): Promise<TextModel> {
  const { signal, store = "auto" } = options;
  const positions = Math.min(options.positions ?? POSITIONS, manifest.context_length ?? POSITIONS);
  checkMemory(manifest, device, positions);
  const variants = await candidates(manifest, device, options);
  const threads = mostThreads(device, options.threads);
  const onProgress = timed(options);
  const open = async (variant: Variant): Promise<Opened> => {
    const script = variant === "relaxed" || variant === "plain" ? "engine" : "ort";
    const worker = new WorkerClient(new URL(`./${script}-worker.js`, import.meta.url));
    opened.push(worker);
    const request = { kind: "load" as const, base: base.href, manifest, variant, threads, positions, store };
    return { worker, loaded: await worker.ask<Loaded>(request, signal, { onProgress }) };
  };
  const opened: WorkerClient[] = [];
  const fastest = new Fastest(manifest, threads);
  try {
    const [worker, tokenizer] = await Promise.all([
      options.threads ? fastest.openOne(variants[0], open) : fastest.open(variants, open, signal),
      openStore("none").then((none) => loadTokenizer({ base, manifest, store: none, signal })),
    ]);
    const { choice } = fastest;
    if (manifest.engine.refused) choice.why += `; our engine cannot run it: ${manifest.engine.refused}`;
    if (!device.isolated) choice.why += "; the page is not cross-origin isolated, which threads need";
    return new DecoderModel(manifest, tokenizer, worker, fastest);
  } catch (error) {
    opened.forEach((worker) => worker.end(neverLoaded()));
    throw error;
  }
}

async function loadEncoder(base: URL, manifest: Manifest, device: Device, options: LoadOptions): Promise<Model> {
  const none = await openStore("none");
  const [computing, tokenizer] = await Promise.all([
    manifest.engine.encoder ? openEngine(base, manifest, device, options) : openOrt(base, manifest, device, options),
    loadTokenizer({ base, manifest, store: none, signal: options.signal }),
  ]);
  const Made = manifest.task === "text-ranking" ? RankingModel : EmbeddingModel;
  return new Made(manifest, tokenizer, computing);
}

async function openEngine(base: URL, manifest: Manifest, device: Device, options: LoadOptions): Promise<Computing> {
  const { signal, store = "auto" } = options;
  const variant = engineVariant(device, options);
  const positions = longestText(manifest);
  const asked = { kind: "load" as const, base: base.href, manifest, variant, positions, store };
  const onProgress = timed(options);
  if (!hasWorkers()) {
    const { engine, loaded } = await loadEncoderEngine({ ...asked, threads: 1 }, { signal, onProgress });
    const choice = { engine: ENGINES[loaded.variant], threads: 1, why: "there are no workers here", loaded };
    return new InPlace(positions, choice, engine);
  }
  const threads = mostThreads(device, options.threads);
  const worker = new WorkerClient(new URL("./encoder-worker.js", import.meta.url));
  const open = async (): Promise<Opened> => {
    return { worker, loaded: await worker.ask<Loaded>({ ...asked, threads }, signal, { onProgress }) };
  };
  const fastest = new Fastest(manifest, threads);
  try {
    await (options.threads ? fastest.openOne(variant, open) : fastest.open([variant], open, signal));
    return new InWorker(positions, worker, fastest);
  } catch (error) {
    worker.end(neverLoaded());
    throw error;
  }
}

/** Whether there are a browser's workers; ONNX Runtime puts Node's own in their place, which are others. */
function hasWorkers(): boolean {
  return typeof Worker !== "undefined" && "onmessage" in Worker.prototype;
}

/** What the engine does not compute, by its graph. */
async function openOrt(base: URL, manifest: Manifest, device: Device, options: LoadOptions): Promise<Computing> {
  const store = await openStore(options.store === "opfs" ? "cache" : (options.store ?? "cache"));
  const task: Downloading = { base, manifest, store, signal: options.signal, onProgress: timed(options) };
  const start = performance.now();
  const threads = mostThreads(device, options.threads);
  const { ort, session, fetched } = await openSession(task, "wasm", threads);
  const seconds = (performance.now() - start) / 1e3;
  const loaded: Loaded = { bytes: 0, store: store.kind, fetched, seconds, variant: "wasm" };
  const why = `our engine cannot run it: ${manifest.engine.refused}`;
  return new InOrt({ engine: ENGINES.wasm, threads, why, loaded }, ort, session);
}

function neverLoaded(): LabError {
  return new LabError("disposed", "it was never loaded");
}
