/** A decoder in the engine's memory, with the cache's length. */
import { describe } from "./description";
import { EngineMemory, putIds, type Helper } from "./engine-memory";
import { LabError } from "./errors";
import type { Decoder } from "./manifest";

export class Engine {
  private length = 0;

  constructor(
    readonly memory: EngineMemory,
    private readonly model: Decoder,
    readonly positions: number,
  ) {}

  get vocab(): number {
    return this.model.vocab;
  }

  /** Begin with an empty cache: see EngineMemory.open. */
  open(threads: number): Helper[] {
    const { model, positions } = this;
    const pieces = this.memory.addresses;
    this.length = 0;
    return this.memory.open(threads, Float32Array.from(model.inverse_frequencies), (frequencies) =>
      describe(model, { pieces, frequencies, positions, threads }),
    );
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
    putIds(this.memory.words(this.memory.call("ids"), ids.length), ids, this.vocab);
    this.memory.call("step", ids.length, this.length);
    this.length += ids.length;
  }

  /** The logits after a token of the last step, a view that the next call overwrites. */
  logits(index: number): Float32Array {
    return this.memory.floats(this.memory.call("logits", index), this.vocab);
  }

  /** The likeliest tokens by the logits as they stand: see Runner. */
  likeliest(k: number): Uint32Array {
    const count = this.memory.call("choose", Math.min(k, this.vocab));
    return this.memory.words(this.memory.call("likely"), count);
  }
}
