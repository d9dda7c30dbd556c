/** The leader of the engine: it loads the weights into the engine's memory and runs it. */
import { Engine, type Helper } from "./engine";
import { loadFiles, loadWhole, type Downloading } from "./download";
import { LabError } from "./errors";
import { lead, type Runner } from "./leader";
import { openStore } from "./store";

lead(async (request, signal, onProgress) => {
  const start = performance.now();
  const { manifest } = request;
  const decoder = manifest.engine.decoder!;
  const store = await openStore(request.store);
  const task: Downloading = { base: new URL(request.base), manifest, store, signal, onProgress };
  const module = await compile(task, request.variant === "plain" ? "plain" : "relaxed");
  const sizes = manifest.pieces.map((name) => manifest.files[name].bytes);
  const engine = Engine.reserve(module.module, decoder, sizes, request.positions, request.threads);
  engine.open(request.threads); // takes all of its memory before anything is fetched
  const progress = await loadFiles(task, manifest.pieces, (name) => {
    const index = manifest.pieces.indexOf(name);
    return engine.piece(index, sizes[index]);
  });
  const runner = new Team(engine);
  await runner.useThreads(request.threads);
  const seconds = (performance.now() - start) / 1e3;
  const loaded = { bytes: engine.bytes, store: store.kind, fetched: progress.fetched, seconds, variant: module.variant };
  return { runner, loaded };
});

/** The engine; the one without relaxed instructions where those are not what they should be. */
async function compile(
  task: Downloading,
  variant: "relaxed" | "plain",
): Promise<{ module: WebAssembly.Module; variant: "relaxed" | "plain" }> {
  const module = await WebAssembly.compile(await loadWhole(task, `engine-${variant}.wasm`));
  if (Engine.holds(module)) return { module, variant };
  if (variant === "relaxed") return compile(task, "plain");
  throw new LabError("unsupported", "this browser's vector instructions give wrong results", "update it");
}

const LATEST = 200; // milliseconds that a helper may take to join, or to go

/** The engine with its helpers. */
class Team implements Runner {
  readonly everyLogit = true;
  private helpers: Worker[] = [];

  constructor(private readonly engine: Engine) {}

  get vocab(): number {
    return this.engine.vocab;
  }

  get positions(): number {
    return this.engine.positions;
  }

  get cached(): number {
    return this.engine.cached;
  }

  rewind(length: number): number {
    return this.engine.rewind(length);
  }

  step(ids: number[]): void {
    this.engine.step(ids);
  }

  logits(index: number): Float32Array {
    return this.engine.logits(index);
  }

  async useThreads(threads: number): Promise<void> {
    const gone = this.helpers.map(said); // each says when it has come back
    this.engine.stop();
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
