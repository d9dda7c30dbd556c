/** Embedders and rerankers, run by ONNX Runtime's plain WebAssembly build. */
import type * as Ort from "onnxruntime-web";
import { LabError } from "./errors";
import type { Choice } from "./choice";
import type { Manifest } from "./manifest";
import type { TextTokenizer } from "./text";

export type Vector = Float32Array;

class Encoder {
  constructor(
    readonly manifest: Manifest,
    readonly choice: Choice,
    private readonly tokenizer: TextTokenizer,
    private readonly ort: typeof Ort,
    private session: Ort.InferenceSession | null,
  ) {}

  /** Run one text or pair; its output, and the output's shape. */
  protected async run(text: string, pair?: string): Promise<{ data: Vector; dims: readonly number[] }> {
    const session = this.session;
    if (!session) throw new LabError("disposed", "the model was disposed of");
    const longest = Math.min(this.manifest.pooling?.max_length ?? 512, 512);
    const { ids, types } = cut(this.tokenizer.encodePair(text, pair), longest);
    const tensor = (values: number[]) => new this.ort.Tensor("int64", BigInt64Array.from(values.map(BigInt)), [1, values.length]);
    const all: Record<string, Ort.Tensor> = {
      input_ids: tensor(ids),
      attention_mask: tensor(ids.map(() => 1)),
      token_type_ids: tensor(types ?? ids.map(() => 0)),
    };
    const feeds = Object.fromEntries(session.inputNames.map((name) => [name, all[name]]));
    const wanted = session.outputNames.find((name) => name === "sentence_embedding" || name === "logits") ?? session.outputNames[0];
    const { data, dims } = (await session.run(feeds, [wanted]))[wanted];
    return { data: data as Vector, dims };
  }

  async dispose(): Promise<void> {
    const { session } = this;
    this.session = null;
    await session?.release();
  }
}

/** Keep the frame of special tokens: what is too long loses its end, not its [SEP]. */
function cut(encoded: { ids: number[]; types: number[] }, longest: number): { ids: number[]; types: number[] } {
  const { ids, types } = encoded;
  if (ids.length <= longest) return encoded;
  const last = ids.length - 1;
  return { ids: [...ids.slice(0, longest - 1), ids[last]], types: [...types.slice(0, longest - 1), types[last]] };
}

/** The mean of a text's hidden states, of length 1: where a model says nothing of pooling. */
function pooled(states: Vector, size: number): Vector {
  const total = new Float32Array(size);
  states.forEach((value, i) => (total[i % size] += value));
  const length = Math.hypot(...total) || 1;
  return total.map((value) => value / length);
}

export class EmbeddingModel extends Encoder {
  readonly task = "sentence-embedding";

  async embed(texts: string[], signal?: AbortSignal): Promise<Vector[]> {
    const vectors: Vector[] = [];
    for (const text of texts) {
      signal?.throwIfAborted();
      const { data, dims } = await this.run((this.manifest.pooling?.prompt ?? "") + text);
      vectors.push(dims.length === 3 ? pooled(data, dims[2]) : Float32Array.from(data));
    }
    return vectors;
  }
}

export class RankingModel extends Encoder {
  readonly task = "text-ranking";

  /** How well each passage answers the query: logits, in the passages' order. */
  async rank(query: string, passages: string[], signal?: AbortSignal): Promise<number[]> {
    const scores: number[] = [];
    for (const passage of passages) {
      signal?.throwIfAborted();
      scores.push((await this.run(query, passage)).data[0]);
    }
    return scores;
  }
}

export function cosine(a: Vector, b: Vector): number {
  let product = 0;
  let left = 0;
  let right = 0;
  for (let i = 0; i < a.length; i++) {
    product += a[i] * b[i];
    left += a[i] * a[i];
    right += b[i] * b[i];
  }
  return product / Math.sqrt(left * right || 1);
}
