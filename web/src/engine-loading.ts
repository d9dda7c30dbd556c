/** The engine with the weights of a model, and the helpers that compute with it. */
import { loadFiles, loadWhole, type Downloading } from "./download";
import { EncoderEngine } from "./encoder-engine";
import { Engine } from "./engine";
import { EngineMemory, type Helper, type Kind } from "./engine-memory";
import { LabError } from "./errors";
import type { Loaded, LoadRequest } from "./protocol";
import { openStore } from "./store";

type Watched = Pick<Downloading, "signal" | "onProgress">;

export interface Made<E> {
  engine: E;
  helpers: Helpers;
  loaded: Loaded;
}

/** Load a decoder with its helpers. */
export function loadDecoder(asked: LoadRequest, watched: Watched): Promise<Made<Engine>> {
  const make = (memory: EngineMemory) => new Engine(memory, asked.manifest.engine.decoder!, asked.positions);
  return load("decoder", make, asked, watched);
}

/** The same of an encoder. */
export function loadEncoder(asked: LoadRequest, watched: Watched): Promise<Made<EncoderEngine>> {
  const make = (memory: EngineMemory) => new EncoderEngine(memory, asked.manifest.engine.encoder!, asked.positions);
  return load("encoder", make, asked, watched);
}

async function load<E extends Engine | EncoderEngine>(
  kind: Kind,
  make: (memory: EngineMemory) => E,
  asked: LoadRequest,
  watched: Watched,
): Promise<Made<E>> {
  const start = performance.now();
  const { manifest } = asked;
  const store = await openStore(asked.store);
  const task: Downloading = { base: new URL(asked.base), manifest, store, ...watched };
  const { module, variant } = await compile(task, asked.variant === "plain" ? "plain" : "relaxed");
  const sizes = manifest.pieces.map((name) => manifest.files[name].bytes);
  const memory = EngineMemory.reserve(module, kind, sizes);
  const engine = make(memory);
  engine.open(asked.threads); // takes all of its memory before anything is fetched
  const { fetched } = await loadFiles(task, manifest.pieces, (name) => {
    const index = manifest.pieces.indexOf(name);
    return memory.piece(index, sizes[index]);
  });
  const helpers = new Helpers(engine);
  await helpers.use(asked.threads);
  const seconds = (performance.now() - start) / 1e3;
  return { engine, helpers, loaded: { bytes: memory.bytes, store: store.kind, fetched, seconds, variant } };
}

/** The engine; the one without relaxed instructions where those are not what they should be. */
async function compile(
  task: Downloading,
  variant: "relaxed" | "plain",
): Promise<{ module: WebAssembly.Module; variant: "relaxed" | "plain" }> {
  const module = await WebAssembly.compile(await loadWhole(task, `engine-${variant}.wasm`));
  if (EngineMemory.holds(module)) return { module, variant };
  if (variant === "relaxed") return compile(task, "plain");
  throw new LabError("unsupported", "this browser's vector instructions give wrong results", "update it");
}

const LATEST = 200; // milliseconds that a helper may take to join, or to go

/** The helpers of a model that a worker leads. */
export class Helpers {
  private helpers: Worker[] = [];

  constructor(private readonly engine: Engine | EncoderEngine) {}

  /** Go on with so many threads. */
  async use(threads: number): Promise<void> {
    const gone = this.helpers.map(said); // each says when it has come back
    this.engine.memory.stop();
    await Promise.race([Promise.all(gone), wait(LATEST)]);
    this.helpers.forEach((helper) => helper.terminate());
    this.helpers = this.engine.open(threads).map(startHelper).filter((helper) => helper !== null);
    await Promise.race([Promise.all(this.helpers.map(said)), wait(LATEST)]);
  }
}

/** A helper that fails to start is not missed: the leader never waits for one. */
function startHelper(helper: Helper): Worker | null {
  try {
    const worker = new Worker(new URL("./helper-worker.js", import.meta.url), { type: "module" });
    worker.postMessage(helper);
    return worker;
  } catch {
    return null;
  }
}

/** The next message of a worker. */
function said(worker: Worker): Promise<unknown> {
  return new Promise((resolve) => worker.addEventListener("message", resolve, { once: true }));
}

function wait(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
