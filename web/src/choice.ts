/** What runs a decoder on this device: by what there is, and by the time that tokens take. */
import type { Device } from "./device";
import { LabError } from "./errors";
import type { Decoder, Manifest } from "./manifest";
import type { Generated, Loaded, Timing, Variant } from "./protocol";
import type { WorkerClient } from "./worker-client";

const TIME = 400; // milliseconds in which all candidates are timed
const SLOWER = 2; // times as long as was measured: measure again
const SHARE = 0.5; // of a device's memory that one page gets

/** How a model is run, and why so. */
export interface Choice {
  engine: string;
  threads: number;
  why: string;
  loaded?: Loaded;
  msPerToken?: number; // as it was measured
}

/** The bytes that a decoder needs besides its weights: keys and values of all positions. */
function cacheBytes(decoder: Decoder | undefined, positions: number): number {
  const heads = decoder?.layers.reduce((sum, layer) => sum + layer.kv_heads, 0) ?? 0;
  return 2 * 4 * heads * (decoder?.head_dim ?? 0) * positions;
}

/** Refuse a model that this device has no memory for, before anything of it is fetched. */
export function checkMemory(manifest: Manifest, device: Device, positions: number): void {
  if (!device.memoryGb) return; // the browser does not say
  const weights = manifest.pieces.reduce((sum, name) => sum + manifest.files[name].bytes, 0);
  const needed = weights + cacheBytes(manifest.engine.decoder, positions);
  // browsers say 8 of all that is more
  const given = device.memoryGb >= 8 ? Infinity : SHARE * device.memoryGb * 2 ** 30;
  if (needed <= given) return;
  throw new LabError(
    "memory",
    `the model needs ${Math.ceil(needed / 1e6)} MB, more than half of this device's ${device.memoryGb} GB`,
    "take a smaller model, or a server",
  );
}

/** What computes: the engine where it can, else ONNX Runtime, on a GPU where there is one. */
export function variantFor(manifest: Manifest, device: Device, relaxed: boolean): Variant {
  if (!device.simd) throw new LabError("unsupported", "this browser has no SIMD", "take a newer one, or a server");
  if (manifest.engine.decoder) return device.relaxedSimd && relaxed ? "relaxed" : "plain";
  const shipped = Boolean(manifest.files["ort/ort.webgpu.min.mjs"]);
  return shipped && device.gpu && !device.gpu.software ? "webgpu" : "wasm";
}

export const ENGINES: Record<Variant, string> = {
  relaxed: "llmkg-lab, relaxed SIMD",
  plain: "llmkg-lab, plain SIMD",
  wasm: "ONNX Runtime, WebAssembly",
  webgpu: "ONNX Runtime, WebGPU",
};

/** What was measured on an earlier visit: of this engine, on this model, with so many cores. */
class Remembered {
  private readonly key: string;

  constructor(manifest: Manifest, most: number) {
    const engine = manifest.files["engine-relaxed.wasm"]?.sha256 ?? manifest.version;
    const model = `${manifest.fingerprint.slice(0, 16)}:${manifest.quantization}`;
    this.key = `llmkg-lab:speed:${engine.slice(0, 16)}:${model}:${most}`;
  }

  read(): Timing | null {
    try {
      const said = JSON.parse(localStorage.getItem(this.key) ?? "null");
      return said?.threads >= 1 && said?.msPerToken > 0 ? said : null;
    } catch {
      return null;
    }
  }

  write(timing: Timing): void {
    try {
      localStorage.setItem(this.key, JSON.stringify(timing));
    } catch {
      // a private window: measured again on the next visit
    }
  }
}

/** The number of threads of the engine: measured, remembered, and measured again when it gets slow. */
export class ThreadChoice {
  private readonly remembered: Remembered;
  private limit = Infinity; // milliseconds for a token
  private slow = false;

  constructor(
    private readonly worker: WorkerClient,
    private readonly choice: Choice,
    manifest: Manifest,
    private readonly most: number,
  ) {
    this.remembered = new Remembered(manifest, most);
  }

  async begin(signal?: AbortSignal): Promise<void> {
    const earlier = this.remembered.read();
    if (!earlier || earlier.threads > this.most) return this.measure(signal);
    if (earlier.threads !== this.most) {
      await this.worker.ask({ kind: "threads", threads: earlier.threads }, signal);
    }
    this.take(earlier, "remembered");
  }

  /** Note how long the tokens of an answer took. */
  note(last: Generated | null): void {
    if (!last || last.msPerToken <= this.limit) return;
    this.slow = true;
    this.limit = SLOWER * last.msPerToken; // once more only when it gets slower still
  }

  /** Before an answer: measure again where the last one was slow. */
  async again(signal?: AbortSignal): Promise<void> {
    if (!this.slow) return;
    this.slow = false;
    const { limit } = this;
    await this.measure(signal);
    this.limit = Math.max(this.limit, limit);
  }

  private async measure(signal?: AbortSignal): Promise<void> {
    const counts = this.most > 1 ? [1, this.most] : [1];
    const start = performance.now();
    const timings = await this.worker.ask<Timing[]>({ kind: "choose", counts, milliseconds: TIME }, signal);
    this.remembered.write(timings[0]);
    const seconds = (performance.now() - start) / 1e3;
    this.take(timings[0], `measured in ${seconds.toFixed(2)} s`, timings.slice(1));
  }

  private take(best: Timing, how: string, others: Timing[] = []): void {
    const said = (timing: Timing) =>
      `${timing.msPerToken.toFixed(1)} ms per token with ${timing.threads} ${timing.threads === 1 ? "thread" : "threads"}`;
    this.choice.threads = best.threads;
    this.choice.msPerToken = best.msPerToken;
    this.choice.why = [`${said(best)}, ${how}`, ...others.map(said)].join("; ");
    this.limit = SLOWER * best.msPerToken;
  }
}
