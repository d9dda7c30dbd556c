/** An encoder in the engine's memory. */
import { describeEncoder } from "./description";
import { EngineMemory, putIds, type Helper } from "./engine-memory";
import { LabError } from "./errors";
import type { Encoder } from "./manifest";

export class EncoderEngine {
  constructor(
    readonly memory: EngineMemory,
    private readonly model: Encoder,
    private readonly positions: number,
  ) {}

  get vocab(): number {
    return this.model.vocab;
  }

  open(threads: number): Helper[] {
    const { model, positions } = this;
    const pieces = this.memory.addresses;
    return this.memory.open(threads, new Float32Array(), () => describeEncoder(model, { pieces, positions, threads }));
  }

  /** The vector or the scores of a text, each of whose tokens is of a type. */
  run(ids: ArrayLike<number>, types: ArrayLike<number>): Float32Array {
    const count = ids.length;
    if (!count || count > this.positions) {
      throw new LabError("input", `a text of ${count} tokens`, `it has to have 1 to ${this.positions}`);
    }
    putIds(this.memory.words(this.memory.call("ids"), count), ids, this.model.vocab);
    putIds(this.memory.words(this.memory.call("types"), count), types, this.model.types);
    return this.memory.floats(this.memory.call("run", count), this.model.output_size).slice();
  }
}
