/** What runs a model on this device: by what there is, and by the time that tokens take. */
import type { Device } from "./device";
import { LabError } from "./errors";
import type { Decoder, Manifest } from "./manifest";
import type { Generated, Loaded, Timing, Variant } from "./protocol";
import type { WorkerClient } from "./worker-client";

const TIME = 400; // milliseconds in which all candidates are timed
const SLOWER = 2; // times as long as was measured: measure again
const SHARE = 0.5; // of a device's memory that one page gets
const ADDRESSES = 2 ** 32 - 2 ** 16; // bytes that WebAssembly's memory has at most
const WEBGPU = "./ort/ort.webgpu.min.mjs";

/** What a caller may say of how a model is to be run. */
export interface Wanted {
  threads?: number; // by default what is measured to be fastest
  relaxedSimd?: boolean; // false: as if the browser had none
  gpu?: "auto" | "any" | "none"; // any: one that the processor plays, too
}

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
  return 2 * heads * (2 * (decoder?.head_dim ?? 0) + 4) * positions; // codes of 16 bits and a scale
}

/** Refuse a model that no memory here holds, before anything of it is fetched. */
export function checkMemory(manifest: Manifest, device: Device, positions: number): void {
  const weights = manifest.pieces.reduce((sum, name) => sum + manifest.files[name].bytes, 0);
  const needed = weights + cacheBytes(manifest.engine.decoder, positions);
  const share = device.memoryGb ? SHARE * device.memoryGb * 2 ** 30 : Infinity; // not all browsers say
  if (needed <= Math.min(share, ADDRESSES)) return;
  const least = share < ADDRESSES ? `half of this device's ${device.memoryGb} GB` : "the 4 GB that WebAssembly has";
  const message = `the model needs ${Math.ceil(needed / 1e6)} MB, more than ${least}`;
  throw new LabError("memory", message, "take a smaller model, or a server");
}

/** Refuse a browser that lacks what all engines are made of. */
export function checkInstructions(device: Device): void {
  if (!device.simd) throw new LabError("unsupported", "this browser has no SIMD", "take a newer one, or a server");
}

/** The engine's build for this browser. */
export function engineVariant(device: Device, options: Wanted): "relaxed" | "plain" {
  return device.relaxedSimd && options.relaxedSimd !== false ? "relaxed" : "plain";
}

/** What can compute a decoder here: the engine if it knows it, ONNX Runtime if not, and a GPU. */
export async function candidates(manifest: Manifest, device: Device, options: Wanted): Promise<Variant[]> {
  const first: Variant = manifest.engine.decoder ? engineVariant(device, options) : "wasm";
  const gpu = device.gpu && options.gpu !== "none" && (!device.gpu.software || options.gpu === "any");
  return gpu && (await isShipped(WEBGPU)) ? [first, "webgpu"] : [first];
}

/** ONNX Runtime's build for a GPU is large, and not in every bundle. */
async function isShipped(name: string): Promise<boolean> {
  const answer = await fetch(new URL(name, import.meta.url), { method: "HEAD" }).catch(() => null);
  return answer?.ok === true;
}

export const ENGINES: Record<Variant, string> = {
  relaxed: "llmkg-lab, relaxed SIMD",
  plain: "llmkg-lab, plain SIMD",
  wasm: "ONNX Runtime, WebAssembly",
  webgpu: "ONNX Runtime, WebGPU",
};

/** A model that is loaded, in its worker. */
export interface Opened {
  worker: WorkerClient;
  loaded: Loaded;
}

/** What was found to be fastest. */
interface Found extends Timing {
  variant: Variant;
}

/** What was measured on an earlier visit: of this engine, on this model, among these candidates. */
class Remembered {
  private readonly key: string;

  constructor(manifest: Manifest, variants: Variant[], most: number) {
    const engine = manifest.files["engine-relaxed.wasm"]?.sha256 ?? manifest.version;
    const model = `${manifest.fingerprint.slice(0, 16)}:${manifest.quantization}`;
    this.key = `llmkg-lab:speed:${engine.slice(0, 16)}:${model}:${variants}:${most}`;
  }

  read(): Found | null {
    try {
      const said = JSON.parse(localStorage.getItem(this.key) ?? "null");
      return said?.threads >= 1 && said?.msPerToken > 0 ? said : null;
    } catch {
      return null;
    }
  }

  write(found: Found): void {
    try {
      localStorage.setItem(this.key, JSON.stringify(found));
    } catch {
      // a private window: measured again on the next visit
    }
  }
}

/** The fastest way to run a model: measured, remembered, and measured again when it gets slow. */
export class Fastest {
  readonly choice: Choice = { engine: "", threads: 1, why: "" };
  private remembered: Remembered | null = null;
  private worker: WorkerClient | null = null;
  private variant: Variant = "plain";
  private spent = 0; // milliseconds, for timing
  private limit = Infinity; // milliseconds for a token
  private slow = false;

  /** most: the threads that there may be. */
  constructor(
    private readonly manifest: Manifest,
    private readonly most: number,
  ) {}

  /** Open what was fastest on an earlier visit, or all variants, of which the fastest stays. */
  async open(
    variants: Variant[],
    open: (variant: Variant) => Promise<Opened>,
    signal?: AbortSignal,
  ): Promise<WorkerClient> {
    this.remembered = new Remembered(this.manifest, variants, this.most);
    const earlier = this.remembered.read();
    if (earlier && earlier.threads <= this.most && variants.includes(earlier.variant)) {
      const { worker } = this.take(await open(earlier.variant), earlier, "remembered");
      const { threads } = earlier;
      if (threads !== this.most) await worker.ask({ kind: "threads", threads }, signal);
      return worker;
    }
    const others: string[] = [];
    let best: Found | null = null;
    for (const variant of variants) {
      try {
        const opened = await open(variant);
        const [found, ...slower] = await this.time(opened.worker, variant, signal);
        if (!best || found.msPerToken < best.msPerToken) {
          this.worker?.end(notTaken());
          if (best) others.push(said(best));
          best = found;
          this.take(opened, found, "measured");
        } else {
          opened.worker.end(notTaken());
          others.push(said(found));
        }
        others.push(...slower.map(said));
      } catch (error) {
        if (!best || signal?.aborted) throw error;
        others.push(`not by ${ENGINES[variant]}: ${LabError.from(error).message}`);
      }
    }
    this.conclude(best!, others);
    return this.worker!;
  }

  /** Open one variant as it was asked for. */
  async openOne(variant: Variant, open: (variant: Variant) => Promise<Opened>): Promise<WorkerClient> {
    const { worker } = this.take(await open(variant), { variant, threads: this.most, msPerToken: 0 }, "");
    this.choice.why = "as was asked for";
    this.limit = Infinity;
    return worker;
  }

  /** Note how long the tokens of an answer or a text took. */
  note(last: Pick<Generated, "msPerToken">): void {
    if (last.msPerToken <= this.limit) return;
    this.slow = true;
    this.limit = SLOWER * last.msPerToken; // once more only when it gets slower still
  }

  /** Before the next: measure again where the last one was slow. */
  async again(signal?: AbortSignal): Promise<void> {
    if (!this.slow || !this.worker) return;
    this.slow = false;
    this.spent = 0;
    const { limit } = this;
    const [found, ...slower] = await this.time(this.worker, this.variant, signal);
    this.adopt(found, "measured");
    this.conclude(found, slower.map(said));
    this.limit = Math.max(limit, this.limit);
  }

  private async time(worker: WorkerClient, variant: Variant, signal?: AbortSignal): Promise<Found[]> {
    const ours = variant === "relaxed" || variant === "plain";
    const counts = ours && this.most > 1 ? [1, this.most] : [this.most];
    const start = performance.now();
    const milliseconds = TIME - this.spent;
    const timings = await worker.ask<Timing[]>({ kind: "choose", counts, milliseconds }, signal);
    this.spent += performance.now() - start;
    return timings.map((timing) => ({ ...timing, variant }));
  }

  private take(opened: Opened, found: Found, how: string): Opened {
    this.worker = opened.worker;
    this.choice.loaded = opened.loaded;
    this.adopt(found, how);
    this.choice.engine = ENGINES[opened.loaded.variant];
    return opened;
  }

  private adopt(found: Found, how: string): void {
    this.variant = found.variant;
    this.choice.threads = found.threads;
    this.choice.msPerToken = found.msPerToken;
    this.choice.why = `${said(found)}, ${how}`;
    this.limit = SLOWER * found.msPerToken;
  }

  private conclude(best: Found, others: string[]): void {
    const seconds = (this.spent / 1e3).toFixed(2);
    this.choice.why = [`${this.choice.why} in ${seconds} s`, ...others].join("; ");
    this.remembered?.write(best);
  }
}

function said(found: Found): string {
  const threads = found.variant === "webgpu" ? "the GPU" : found.threads === 1 ? "1 thread" : `${found.threads} threads`;
  return `${found.msPerToken.toFixed(1)} ms per token with ${threads}`;
}

function notTaken(): LabError {
  return new LabError("disposed", "another way to run the model is faster");
}
