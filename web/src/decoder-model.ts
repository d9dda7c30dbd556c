/** A model that writes text, run by the engine. */
import type { Choice, Fastest } from "./choice";
import { LabError } from "./errors";
import type { Manifest } from "./manifest";
import type { Generated } from "./protocol";
import type { Sampling } from "./sampler";
import { Detokenizer, StopTexts, type Message, type TextTokenizer } from "./text";
import type { WorkerClient } from "./worker-client";

export interface GenerateOptions extends Sampling {
  max_tokens?: number;
  stop?: string[];
  signal?: AbortSignal;
}

/** What all models that write text share, wherever they are computed. */
export interface TextModel {
  readonly task: "text-generation";
  readonly choice: Choice;
  /** Of the last generation. */
  readonly last: Generated | null;
  generate(prompt: string | Message[], options?: GenerateOptions): AsyncGenerator<string, void, void>;
  dispose(): void;
}

export class DecoderModel implements TextModel {
  readonly task = "text-generation";
  last: Generated | null = null;

  constructor(
    readonly manifest: Manifest,
    readonly tokenizer: TextTokenizer,
    private readonly worker: WorkerClient,
    private readonly fastest: Fastest,
  ) {}

  get choice(): Choice {
    return this.fastest.choice;
  }

  /** Continue a text, or answer a conversation; the text comes as it grows. */
  async *generate(prompt: string | Message[], options: GenerateOptions = {}): AsyncGenerator<string, void, void> {
    const { ids, ends } = this.tokenizer.prompt(prompt);
    const text = new Detokenizer(this.tokenizer, ids);
    const stop = new StopTexts(options.stop);
    const tokens = this.tokens(ids, ends, options);
    for await (const token of tokens) {
      const piece = stop.push(text.push(token));
      if (piece) yield piece;
      if (stop.stopped) return; // ends `tokens`, which cancels what still runs
    }
    const rest = stop.push(text.flush()) + stop.flush();
    if (rest) yield rest;
  }

  /** The same in token ids. */
  async *tokens(ids: number[], ends: number[], options: GenerateOptions = {}): AsyncGenerator<number, void, void> {
    const { signal, max_tokens: maxTokens = 1024, stop: _, ...sampling } = options;
    if (!(maxTokens >= 1)) throw new LabError("input", `max_tokens is ${maxTokens}`, "it has to be 1 or more");
    const own = new AbortController();
    const cancel = () => own.abort();
    signal?.addEventListener("abort", cancel, { once: true });
    if (signal?.aborted) own.abort();
    const arrived: number[] = [];
    let wake = () => {};
    let state: { error?: LabError } | null = null;
    const done = (error?: LabError) => ((state = { error }), wake());
    const onTokens = (tokens: number[]) => (arrived.push(...tokens), wake());
    const request = { kind: "generate" as const, ids, ends, maxTokens, sampling };
    Promise.resolve(this.fastest.again(own.signal))
      .then(() => this.worker.ask<Generated>(request, own.signal, { onTokens }))
      .then((result) => ((this.last = result), this.fastest.note(result), done()), done);
    try {
      for (;;) {
        while (arrived.length) yield arrived.shift()!;
        if (state) break;
        await new Promise<void>((resolve) => (wake = resolve));
      }
      const { error } = state as { error?: LabError };
      if (error) throw error;
    } finally {
      own.abort();
      signal?.removeEventListener("abort", cancel);
    }
  }

  /** The logits after each token, one row of `manifest.engine.decoder.vocab` after the other. */
  logits(ids: number[]): Promise<Float32Array> {
    return this.worker.ask({ kind: "logits", ids });
  }

  measure(tokens = 16): Promise<{ msPerToken: number; promptMs: number }> {
    return this.worker.ask({ kind: "measure", tokens });
  }

  dispose(): void {
    this.worker.end(new LabError("disposed", "the model was disposed of"));
  }
}
