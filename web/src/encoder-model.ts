/** Embedders and rerankers, by the engine or by ONNX Runtime. */
import type { Choice } from "./choice";
import type { Manifest } from "./manifest";
import type { TextTokenizer } from "./text";

export type Vector = Float32Array;

export const LONGEST = 512; // tokens of a text, where nothing says less

/** What computes an encoder's output for a text or a pair. */
export interface Computing {
  readonly choice: Choice;
  readonly longest: number; // tokens of a text
  run(ids: number[], types: number[], signal?: AbortSignal): Promise<{ data: Vector; dims: readonly number[] }>;
  dispose(): Promise<void>;
}

class Encoder {
  constructor(
    readonly manifest: Manifest,
    private readonly tokenizer: TextTokenizer,
    private readonly computing: Computing,
  ) {}

  get choice(): Choice {
    return this.computing.choice;
  }

  /** Run one text or pair; its output, and the output's shape. */
  protected run(text: string, pair?: string, signal?: AbortSignal): Promise<{ data: Vector; dims: readonly number[] }> {
    const longest = Math.min(this.manifest.pooling?.max_length ?? LONGEST, this.computing.longest);
    const { ids, types } = cut(this.tokenizer.encodePair(text, pair), longest);
    return this.computing.run(ids, types ?? ids.map(() => 0), signal);
  }

  dispose(): Promise<void> {
    return this.computing.dispose();
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
      const { data, dims } = await this.run((this.manifest.pooling?.prompt ?? "") + text, undefined, signal);
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
      scores.push((await this.run(query, passage, signal)).data[0]);
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
