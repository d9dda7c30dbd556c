/** The leader of ONNX Runtime: what the engine does not compute (float16 and float32) runs by its graph.
 *
 * The keys and values of all tokens go in with each step and come out again; on a GPU they stay there.
 */
import type * as Ort from "onnxruntime-web";
import type { Downloading } from "./download";
import { LabError } from "./errors";
import { lead, type Runner } from "./leader";
import { openSession } from "./ort";
import { openStore } from "./store";

const PAST = /^past_key_values\.(.*)$/;

lead(async (request, signal, onProgress) => {
  const start = performance.now();
  const { manifest } = request;
  const provider = request.variant === "webgpu" ? "webgpu" : "wasm";
  const store = await openStore(request.store);
  const task: Downloading = { base: new URL(request.base), manifest, store, signal, onProgress };
  const { ort, session, fetched } = await openSession(task, provider, request.threads);
  const runner = new Graph(ort, session, request.positions);
  await runner.step([0]); // a GPU compiles its shaders with the first
  runner.rewind(0);
  const seconds = (performance.now() - start) / 1e3;
  const loaded = { bytes: 0, store: store.kind, fetched, seconds, variant: request.variant };
  return { runner, loaded };
});

type Tensors = Record<string, Ort.Tensor>;

/** A decoder's graph with its cache. */
class Graph implements Runner {
  readonly everyLogit = false;
  readonly vocab: number;
  cached = 0;
  private past: Tensors;
  private latest = new Float32Array();

  constructor(
    private readonly ort: typeof Ort,
    private readonly session: Ort.InferenceSession,
    readonly positions: number,
  ) {
    this.vocab = Number(shape(session.outputMetadata, "logits")[2]);
    this.past = this.nothing();
  }

  /** All or nothing: the cache is not cut. */
  rewind(length: number): number {
    if (length >= this.cached) return this.cached;
    this.keep(this.nothing(), 0);
    return 0;
  }

  async step(ids: number[]): Promise<void> {
    const length = this.cached + ids.length;
    if (length > this.positions) {
      throw new LabError("input", `there is room for ${this.positions} tokens`, "shorten the prompt");
    }
    const feeds: Tensors = {
      ...this.past,
      input_ids: this.whole(ids, [1, ids.length]),
      attention_mask: this.whole(new Array(length).fill(1), [1, length]),
      num_logits_to_keep: this.whole([1], []),
    };
    const results = await this.session.run(feeds);
    this.latest = (await results.logits.getData(true)) as Float32Array<ArrayBuffer>;
    const past = this.session.inputNames.filter((name) => PAST.test(name));
    this.keep(Object.fromEntries(past.map((name) => [name, results[name.replace(PAST, "present.$1")]])), length);
  }

  logits(): Float32Array {
    return this.latest;
  }

  likeliest(k: number): number[] {
    const logits = this.latest;
    const least = k < logits.length ? logits.toSorted()[logits.length - k] : -Infinity;
    const tokens: number[] = [];
    for (let i = 0; i < logits.length; i++) if (logits[i] >= least) tokens.push(i);
    return tokens.sort((a, b) => logits[b] - logits[a] || a - b);
  }

  private keep(past: Tensors, length: number): void {
    Object.values(this.past).forEach((tensor) => tensor.dispose());
    this.past = past;
    this.cached = length;
  }

  private nothing(): Tensors {
    const names = this.session.inputNames.filter((name) => PAST.test(name));
    const empty = (name: string) => {
      const [, heads, , size] = shape(this.session.inputMetadata, name).map(Number);
      return new this.ort.Tensor("float32", new Float32Array(), [1, heads, 0, size]);
    };
    return Object.fromEntries(names.map((name) => [name, empty(name)]));
  }

  private whole(values: number[], dims: number[]): Ort.Tensor {
    return new this.ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
  }
}

function shape(values: readonly Ort.InferenceSession.ValueMetadata[], name: string): readonly (number | string)[] {
  const found = values.find((value) => value.name === name);
  if (!found?.isTensor) throw new LabError("unsupported", `the graph has no ${name}`, "make the bundle again");
  return found.shape;
}
