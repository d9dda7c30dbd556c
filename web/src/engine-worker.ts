/** The leader of the engine: it loads a decoder's weights into the engine's memory and runs it. */
import type { Engine } from "./engine";
import { loadDecoder, type Helpers } from "./engine-loading";
import { lead, type Runner } from "./leader";

lead(async (request, signal, onProgress) => {
  const { engine, helpers, loaded } = await loadDecoder(request, { signal, onProgress });
  return { runner: new Team(engine, helpers), loaded };
});

/** The engine with its helpers. */
class Team implements Runner {
  readonly everyLogit = true;

  constructor(
    private readonly engine: Engine,
    private readonly helpers: Helpers,
  ) {}

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

  likeliest(k: number): Uint32Array {
    return this.engine.likeliest(k);
  }

  useThreads(threads: number): Promise<void> {
    return this.helpers.use(threads);
  }
}
