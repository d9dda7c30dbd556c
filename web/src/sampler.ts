/** The next token from the logits, as the Python runtime chooses it (runtime/text/sampling.py). */
import { LabError } from "./errors";
import { Random } from "./random";

export interface Sampling {
  temperature?: number; // 0: the likeliest
  top_k?: number; // 0: all
  top_p?: number;
  repetition_penalty?: number;
  seed?: number;
}

export class Sampler {
  private readonly random: Random;
  private readonly temperature: number;
  private readonly topK: number;
  private readonly topP: number;
  private readonly penalty: number;

  constructor(options: Sampling = {}) {
    this.temperature = valid("temperature", options.temperature ?? 0.7, (x) => x >= 0);
    this.topK = valid("top_k", options.top_k ?? 50, (x) => x >= 0 && Number.isInteger(x));
    this.topP = valid("top_p", options.top_p ?? 0.95, (x) => x >= 0 && x <= 1);
    this.penalty = valid("repetition_penalty", options.repetition_penalty ?? 1.1, (x) => x > 0);
    const seed = options.seed ?? Math.floor(Math.random() * 2 ** 48);
    this.random = new Random(valid("seed", seed, (x) => x >= 0 && Number.isSafeInteger(x)));
  }

  /** logits: changed in place. history: tokens so far, the prompt's among them. */
  next(logits: Float32Array, history: Iterable<number>): number {
    this.penalize(logits, history);
    if (this.temperature === 0) return finite(logits, largest(logits));
    const scale = Math.fround(this.temperature);
    for (let i = 0; i < logits.length; i++) logits[i] /= scale;
    const tokens = this.mostLikely(logits);
    const best = logits[finite(logits, tokens[0])];
    let weights = tokens.map((token) => Math.exp(Math.fround(logits[token] - best)));
    weights = normalized(weights);
    if (this.topP < 1) weights = normalized(weights.slice(0, nucleus(weights, this.topP)));
    return tokens[this.draw(weights)];
  }

  private penalize(logits: Float32Array, history: Iterable<number>): void {
    if (this.penalty === 1) return;
    const penalty = Math.fround(this.penalty);
    for (const token of new Set(history)) {
      logits[token] = logits[token] < 0 ? logits[token] * penalty : logits[token] / penalty;
    }
  }

  /** The tokens that top-k leaves, likeliest first; equal ones in the vocabulary's order. */
  private mostLikely(logits: Float32Array): number[] {
    let least = -Infinity;
    if (this.topK && this.topK < logits.length) least = kthLargest(logits, this.topK);
    const tokens: number[] = [];
    for (let i = 0; i < logits.length; i++) if (logits[i] >= least) tokens.push(i);
    return tokens.sort((a, b) => logits[b] - logits[a] || a - b);
  }

  /** By the inverse of the cumulative distribution. */
  private draw(weights: number[]): number {
    const sums: number[] = [];
    let sum = 0;
    for (const weight of weights) sums.push((sum += weight));
    const drawn = this.random.next() * sum;
    const index = sums.findIndex((value) => value > drawn);
    return index < 0 ? weights.length - 1 : index;
  }
}

function valid(name: string, value: number, holds: (value: number) => boolean): number {
  if (typeof value === "number" && Number.isFinite(value) && holds(value)) return value;
  throw new LabError("input", `${name} is ${value}`, "see the options of generate");
}

function largest(logits: Float32Array): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  return best;
}

function finite(logits: Float32Array, token: number): number {
  if (!Number.isFinite(logits[token])) throw new LabError("engine", "the model's logits are not numbers");
  return token;
}

function normalized(weights: number[]): number[] {
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/** How many of the likeliest tokens reach p: one stays while those before it have not. */
function nucleus(weights: number[], p: number): number {
  let before = 0;
  for (let i = 0; i < weights.length; i++) {
    const sum = before + weights[i];
    if (sum - weights[i] >= p) return Math.max(1, i);
    before = sum;
  }
  return weights.length;
}

/** By a heap of the k largest so far, its root the least of them. */
function kthLargest(values: Float32Array, k: number): number {
  const heap = new Float32Array(k).fill(-Infinity);
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (!(value > heap[0])) continue;
    let at = 0;
    for (let child; (child = 2 * at + 1) < k; at = child) {
      if (child + 1 < k && heap[child + 1] < heap[child]) child++;
      if (heap[child] >= value) break;
      heap[at] = heap[child];
    }
    heap[at] = value;
  }
  return heap[0];
}
