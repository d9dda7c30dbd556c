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

  /** logits: changed in place. history: tokens so far, the prompt's among them. likeliest: see Runner. */
  next(logits: Float32Array, history: Iterable<number>, likeliest: (k: number) => ArrayLike<number>): number {
    this.penalize(logits, history);
    if (this.temperature === 0) return finite(logits, likeliest(1)[0]);
    const scale = Math.fround(this.temperature);
    for (let i = 0; i < logits.length; i++) logits[i] /= scale;
    const tokens = Array.from(likeliest(this.topK || logits.length));
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
