/** What a decoder's worker does, whatever computes the tokens: one request at a time. */
import { LabError } from "./errors";
import { choose, median } from "./timing";
import { Sampler } from "./sampler";
import type { Generated, GenerateRequest, Loaded, LoadRequest, Request } from "./protocol";
import { breathe, reply, serve } from "./worker-queue";

export const TILE = 128; // tokens of a prompt in one step: TILE of engine/decoder.h

const FRAME = 16; // milliseconds of a screen's

/** What computes tokens. */
export interface Runner {
  readonly vocab: number;
  readonly positions: number;
  readonly cached: number; // tokens in the cache
  readonly everyLogit: boolean; // whether a step leaves the logits of all its tokens, or the last's
  /** Forget tokens behind the first `length`, or more; returns how many are left. */
  rewind(length: number): number;
  /** Append tokens, at most TILE, to those in the cache. */
  step(ids: number[]): void | Promise<void>;
  /** The logits after a token of the last step, a view that the next call overwrites. */
  logits(index: number): Float32Array;
  /** The k tokens with the largest of those logits, and all that equal the last of them, likeliest first;
   * equal ones in the vocabulary's order. */
  likeliest(k: number): ArrayLike<number>;
  /** Go on with so many threads, and an empty cache. */
  useThreads?(threads: number): Promise<void>;
}

export type Load = (
  request: LoadRequest,
  signal: AbortSignal,
  onProgress: (progress: { loaded: number; total: number; fetched: number }) => void,
) => Promise<{ runner: Runner; loaded: Loaded }>;

let runner: Runner | null = null;
let tokens: number[] = []; // in the cache

/** Answer this worker's messages. */
export function lead(load: Load): void {
  serve((id, request, signal) => answer(id, request, load, signal));
}

async function answer(id: number, request: Request, load: Load, signal: AbortSignal): Promise<unknown> {
  switch (request.kind) {
    case "load": {
      const made = await load(request, signal, (progress) => reply({ id, kind: "progress", progress }));
      runner = made.runner;
      return made.loaded;
    }
    case "generate":
      return generate(id, request, signal);
    case "logits":
      return logitsOf(request.ids, signal);
    case "measure":
      return measure(request.tokens, signal);
    case "choose":
      return choose(request, useThreads, (share) => timeTokens(Infinity, share, signal));
    case "threads":
      return useThreads(request.threads);
    default:
      throw new LabError("input", "the worker does not know this request");
  }
}

function opened(): Runner {
  if (!runner) throw new LabError("disposed", "no model is loaded");
  return runner;
}

/** Bring the cache to hold `ids`; returns how many had to be computed. What it shares is kept. */
async function read(ids: number[], signal: AbortSignal): Promise<number> {
  const model = opened();
  let shared = 0;
  while (shared < Math.min(tokens.length, ids.length - 1) && tokens[shared] === ids[shared]) shared++;
  shared = model.rewind(shared);
  tokens.length = shared;
  for (let at = shared; at < ids.length; at += TILE) {
    await breathe(signal);
    const part = ids.slice(at, at + TILE);
    await model.step(part);
    tokens.push(...part);
  }
  return ids.length - shared;
}

async function generate(id: number, request: GenerateRequest, signal: AbortSignal): Promise<Generated> {
  const model = opened();
  if (!request.ids.length) throw new LabError("input", "there are no tokens to run", "give a prompt");
  const start = performance.now();
  const sampler = new Sampler(request.sampling);
  const ends = new Set(request.ends);
  const prompt = await read(request.ids, signal);
  let index = (prompt - 1) % TILE;
  const outbox = new Outbox(id);
  const times: number[] = [];
  let firstMs = 0;
  let last = performance.now();
  for (let count = 0; ; count++) {
    if (outbox.due()) await breathe(signal);
    const token = sampler.next(model.logits(index), tokens, (k) => model.likeliest(k));
    if (!count) firstMs = performance.now() - start;
    const ended = ends.has(token);
    if (!ended) outbox.put(token);
    if (ended || count + 1 >= request.maxTokens || model.cached >= model.positions) {
      outbox.send();
      const [made, reason] = ended ? [count, "end" as const] : [count + 1, "length" as const];
      return { tokens: made, reason, prompt, firstMs, msPerToken: median(times) };
    }
    await model.step([token]);
    tokens.push(token);
    index = 0;
    const now = performance.now();
    if (count) times.push(now - last);
    last = now;
  }
}

/** Tokens on their way to the page; those of one frame of its screen go together.
 *
 * Whoever takes them, and looks whether to go on, needs a core for a moment, as the engine does.
 */
class Outbox {
  private tokens: number[] = [];
  private sent = -Infinity;

  constructor(private readonly id: number) {}

  due(): boolean {
    return performance.now() >= this.sent + FRAME;
  }

  put(token: number): void {
    this.tokens.push(token);
    if (this.due()) this.send();
  }

  send(): void {
    if (this.tokens.length) reply({ id: this.id, kind: "tokens", tokens: this.tokens });
    this.tokens = [];
    this.sent = performance.now();
  }
}

/** The logits after each token, for tests and measures of quality. */
async function logitsOf(ids: number[], signal: AbortSignal): Promise<Float32Array> {
  const model = opened();
  const all = new Float32Array(ids.length * model.vocab);
  const tile = model.everyLogit ? TILE : 1;
  forget(model);
  for (let at = 0; at < ids.length; at += tile) {
    await breathe(signal);
    const part = ids.slice(at, at + tile);
    await model.step(part);
    part.forEach((_, i) => all.set(model.logits(i), (at + i) * model.vocab));
  }
  forget(model);
  return all;
}

function forget(model: Runner): void {
  model.rewind(0);
  tokens = [];
}

/** How long tokens take, one after the other, from an empty cache on: `count` or as many as there is time for. */
async function timeTokens(count: number, milliseconds: number, signal: AbortSignal): Promise<number[]> {
  const model = opened();
  forget(model);
  const times: number[] = [];
  const end = performance.now() + milliseconds;
  while (times.length < Math.min(count, model.positions)) {
    await breathe(signal);
    const start = performance.now();
    await model.step([(times.length + 1) % model.vocab]);
    model.logits(0);
    times.push(performance.now() - start);
    if (performance.now() + times.at(-1)! > end) break;
  }
  forget(model);
  return times;
}

/** Milliseconds for one token, the median of some, and for a prompt of a whole tile. */
async function measure(count: number, signal: AbortSignal): Promise<{ msPerToken: number; promptMs: number }> {
  const model = opened();
  const msPerToken = median(await timeTokens(count, Infinity, signal));
  const start = performance.now();
  await model.step(Array.from({ length: TILE }, (_, i) => (i + 1) % model.vocab));
  model.logits(TILE - 1);
  const promptMs = performance.now() - start;
  forget(model);
  return { msPerToken, promptMs };
}

async function useThreads(threads: number): Promise<void> {
  await opened().useThreads?.(threads);
  tokens = [];
}
