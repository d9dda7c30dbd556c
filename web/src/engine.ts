/** The engine in its memory: weights, then what the decoder works in, then the helpers' stacks. */
import { LabError } from "./errors";
import { describe } from "./description";
import type { Decoder } from "./manifest";

const PAGE = 65536;
const ALIGNMENT = 64;
const STACK = PAGE; // bytes of a helper's
const MOST_PAGES = 65535; // of 4 GB; as the binaries say

interface Exports {
  __heap_base: WebAssembly.Global<"i32">;
  __stack_pointer: WebAssembly.Global<"i32">;
  decoder_bytes(words: number, count: number): number;
  decoder_open(words: number, count: number, base: number, memory: number): number;
  decoder_ids(decoder: number): number;
  decoder_step(decoder: number, count: number, position: number): void;
  decoder_logits(decoder: number, index: number): number;
  decoder_help(decoder: number, thread: number): void;
  decoder_stop(decoder: number): void;
  products_hold(): number;
}

/** What a helper needs to join; it crosses to another worker. */
export interface Helper {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  stack: number; // its upper end
  decoder: number;
  thread: number;
}

function instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory): Exports {
  return new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as Exports;
}

/** Run as a helper until the decoder is stopped. */
export function help(helper: Helper): void {
  const exports = instantiate(helper.module, helper.memory);
  exports.__stack_pointer.value = helper.stack;
  exports.decoder_help(helper.decoder, helper.thread);
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

export class Engine {
  readonly vocab: number;
  private decoder = 0;
  private length = 0;

  private constructor(
    private readonly module: WebAssembly.Module,
    private readonly memory: WebAssembly.Memory,
    private readonly exports: Exports,
    private readonly model: Decoder,
    private readonly addresses: number[],
    private readonly end: number,
    readonly positions: number,
    private readonly threads: number, // at most
  ) {
    this.vocab = model.vocab;
  }

  /** Reserve memory for the weights of a model; they are then put in through `piece`. */
  static reserve(
    module: WebAssembly.Module,
    model: Decoder,
    pieceBytes: number[],
    positions: number,
    threads: number,
  ): Engine {
    const memory = reserve(4);
    const exports = instantiate(module, memory);
    let end = align(exports.__heap_base.value);
    const addresses = pieceBytes.map((bytes) => {
      const at = end;
      end = align(end + bytes);
      return at;
    });
    const engine = new Engine(module, memory, exports, model, addresses, end, positions, threads);
    engine.grow(end);
    return engine;
  }

  /** Whether this browser computes products right; some had a wrong relaxed instruction. */
  static holds(module: WebAssembly.Module): boolean {
    return instantiate(module, reserve(4)).products_hold() === 1;
  }

  /** The bytes of a piece of weights, to be filled. */
  piece(index: number, bytes: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, this.addresses[index], bytes);
  }

  /** Begin, once the weights are there, with an empty cache; returns what the helpers need.
   *
   * It may be opened again with other threads, when it was stopped and no helper runs.
   */
  open(threads = this.threads): Helper[] {
    const frequencies = this.end;
    const floats = Float32Array.from(this.model.inverse_frequencies);
    const words = describe(this.model, {
      pieces: this.addresses,
      frequencies,
      positions: this.positions,
      threads,
    });
    const wordsAt = align(frequencies + floats.byteLength);
    const start = align(wordsAt + words.byteLength);
    this.grow(start);
    new Float32Array(this.memory.buffer, frequencies, floats.length).set(floats);
    new Uint32Array(this.memory.buffer, wordsAt, words.length).set(words);
    const bytes = this.exports.decoder_bytes(wordsAt, words.length) >>> 0;
    if (!bytes) throw new LabError("unsupported", "the engine does not compute this model");
    const stacks = align(start + bytes);
    this.grow(stacks + STACK * threads);
    this.decoder = this.exports.decoder_open(wordsAt, words.length, 0, start);
    this.length = 0;
    return Array.from({ length: threads - 1 }, (_, i) => ({
      module: this.module,
      memory: this.memory,
      stack: stacks + STACK * (i + 1),
      decoder: this.decoder,
      thread: i + 1,
    }));
  }

  get bytes(): number {
    return this.memory.buffer.byteLength;
  }

  /** Tokens in the cache. */
  get cached(): number {
    return this.length;
  }

  /** Forget all tokens behind the first `length`; returns how many are left. */
  rewind(length: number): number {
    this.length = Math.min(this.length, length);
    return this.length;
  }

  /** Append tokens, at most TILE, to those in the cache. */
  step(ids: ArrayLike<number>): void {
    if (this.length + ids.length > this.positions) {
      throw new LabError("input", `there is room for ${this.positions} tokens`, "shorten the prompt");
    }
    const at = this.exports.decoder_ids(this.decoder) >>> 0; // a pointer comes as a signed number
    const into = new Uint32Array(this.memory.buffer, at, ids.length);
    for (let i = 0; i < ids.length; i++) {
      if (!(ids[i] >= 0 && ids[i] < this.vocab)) {
        throw new LabError("input", `the token ${ids[i]} is outside the vocabulary of ${this.vocab}`);
      }
      into[i] = ids[i];
    }
    this.exports.decoder_step(this.decoder, ids.length, this.length);
    this.length += ids.length;
  }

  /** The logits after a token of the last step, a view that the next call overwrites. */
  logits(index: number): Float32Array {
    const at = this.exports.decoder_logits(this.decoder, index) >>> 0;
    return new Float32Array(this.memory.buffer, at, this.vocab);
  }

  /** End the helpers; memory is freed when nobody refers to it. */
  stop(): void {
    if (this.decoder) this.exports.decoder_stop(this.decoder);
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
