/** The engine's memory: weights, then what a model works in, then the helpers' stacks. */
import { VERSION } from "./description";
import { LabError } from "./errors";

const PAGE = 65536;
const ALIGNMENT = 64;
const STACK = PAGE; // bytes of a helper's
const MOST_PAGES = 65535; // of 4 GB; as the binaries say

export type Kind = "decoder" | "encoder";

type Exports = Record<string, (...values: number[]) => number> & {
  __heap_base: WebAssembly.Global<"i32">;
  __stack_pointer: WebAssembly.Global<"i32">;
};

/** What a helper needs to join; it crosses to another worker. */
export interface Helper {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  stack: number; // its upper end
  kind: Kind;
  model: number;
  thread: number;
}

function instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory): Exports {
  return new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as Exports;
}

/** Run as a helper until the model is stopped. */
export function help(helper: Helper): void {
  const exports = instantiate(helper.module, helper.memory);
  exports.__stack_pointer.value = helper.stack;
  exports[`${helper.kind}_help`](helper.model, helper.thread);
}

function align(value: number): number {
  return Math.ceil(value / ALIGNMENT) * ALIGNMENT;
}

/** A shared memory that may grow as far as this machine lets it. */
function reserve(pages: number): WebAssembly.Memory {
  for (let maximum = MOST_PAGES; maximum >= pages; maximum = Math.floor(maximum / 2)) {
    try {
      return new WebAssembly.Memory({ initial: pages, maximum, shared: true });
    } catch {
      // less address space
    }
  }
  throw tooLarge(pages * PAGE);
}

function tooLarge(bytes: number): LabError {
  return new LabError(
    "memory",
    `the model needs ${Math.ceil(bytes / 1e6)} MB, which this browser does not give`,
    "close other tabs, take a smaller model, or a server",
  );
}

export class EngineMemory {
  private model = 0;

  private constructor(
    private readonly module: WebAssembly.Module,
    private readonly memory: WebAssembly.Memory,
    private readonly exports: Exports,
    private readonly kind: Kind,
    readonly addresses: number[], // of the pieces
    private readonly end: number,
  ) {}

  /** Reserve memory for the weights of a model; they are then put in through `piece`. */
  static reserve(module: WebAssembly.Module, kind: Kind, pieceBytes: number[]): EngineMemory {
    const memory = reserve(4);
    const exports = instantiate(module, memory);
    let end = align(exports.__heap_base.value);
    const addresses = pieceBytes.map((bytes) => {
      const at = end;
      end = align(end + bytes);
      return at;
    });
    const reserved = new EngineMemory(module, memory, exports, kind, addresses, end);
    reserved.grow(end);
    return reserved;
  }

  /** Whether this browser computes products right; some had a wrong relaxed instruction.
   *
   * Throws LabError for the engine of another version, which comes with a bundle of another version. */
  static holds(module: WebAssembly.Module): boolean {
    const exports = instantiate(module, reserve(4));
    if (exports.engine_version?.() === VERSION) return exports.products_hold() === 1;
    throw new LabError("unsupported", "the bundle's engine is of another version than this page", "make the bundle again");
  }

  /** The bytes of a piece of weights, to be filled. */
  piece(index: number, bytes: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, this.addresses[index], bytes);
  }

  /** Begin, once the weights are there; returns what the helpers need.
   *
   * It may be opened again with other threads, when it was stopped and no helper runs. `floats` are
   * laid behind the weights; `describe` gets their address and says what the model is.
   */
  open(threads: number, floats: Float32Array, describe: (floats: number) => Uint32Array): Helper[] {
    const words = describe(this.end);
    const wordsAt = align(this.end + floats.byteLength);
    const start = align(wordsAt + words.byteLength);
    this.grow(start);
    this.floats(this.end, floats.length).set(floats);
    this.words(wordsAt, words.length).set(words);
    const bytes = this.exports[`${this.kind}_bytes`](wordsAt, words.length) >>> 0;
    if (!bytes) throw new LabError("unsupported", "the engine does not compute this model");
    const stacks = align(start + bytes);
    this.grow(stacks + STACK * threads);
    this.model = this.exports[`${this.kind}_open`](wordsAt, words.length, 0, start) >>> 0;
    return Array.from({ length: threads - 1 }, (_, i) => ({
      module: this.module,
      memory: this.memory,
      stack: stacks + STACK * (i + 1),
      kind: this.kind,
      model: this.model,
      thread: i + 1,
    }));
  }

  /** Call one of the model's functions; a pointer comes as a signed number, and goes as one without sign. */
  call(name: string, ...values: number[]): number {
    return this.exports[`${this.kind}_${name}`](this.model, ...values) >>> 0;
  }

  /** A view that the next growth of the memory makes useless. */
  floats(at: number, count: number): Float32Array {
    return new Float32Array(this.memory.buffer, at, count);
  }

  /** The same of 32-bit words. */
  words(at: number, count: number): Uint32Array {
    return new Uint32Array(this.memory.buffer, at, count);
  }

  get bytes(): number {
    return this.memory.buffer.byteLength;
  }

  /** End the helpers; memory is freed when nobody refers to it. */
  stop(): void {
    if (this.model) this.call("stop");
  }

  private grow(bytes: number): void {
    const missing = Math.ceil((bytes - this.memory.buffer.byteLength) / PAGE);
    if (missing <= 0) return;
    try {
      this.memory.grow(missing);
    } catch {
      throw tooLarge(bytes);
    }
  }
}

/** Put ids where the engine reads them. Throws LabError on one that is none. */
export function putIds(into: Uint32Array, ids: ArrayLike<number>, vocab: number): void {
  for (let i = 0; i < ids.length; i++) {
    if (!(ids[i] >= 0 && ids[i] < vocab)) {
      throw new LabError("input", `the token ${ids[i]} is outside the vocabulary of ${vocab}`);
    }
    into[i] = ids[i];
  }
}
