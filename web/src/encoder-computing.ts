/** What computes encoders: the engine in a worker, the engine here where there are no workers, ONNX Runtime. */
import type * as Ort from "onnxruntime-web";
import type { Choice, Fastest } from "./choice";
import type { EncoderEngine } from "./encoder-engine";
import { LONGEST, type Computing, type Vector } from "./encoder-model";
import { LabError } from "./errors";
import type { Manifest } from "./manifest";
import type { WorkerClient } from "./worker-client";

const LONG_ENOUGH = 16; // tokens of a text whose time says something

type Output = { data: Vector; dims: readonly number[] };

/** The tokens of a text that there is room for. */
export function longestText(manifest: Manifest): number {
  return Math.min(LONGEST, manifest.engine.encoder?.positions ?? LONGEST);
}

export class InWorker implements Computing {
  constructor(
    readonly longest: number,
    private readonly worker: WorkerClient,
    private readonly fastest: Fastest,
  ) {}

  get choice(): Choice {
    return this.fastest.choice;
  }

  async run(ids: number[], types: number[], signal?: AbortSignal): Promise<Output> {
    await this.fastest.again(signal);
    const start = performance.now();
    const data = await this.worker.ask<Vector>({ kind: "encode", ids, types }, signal);
    const msPerToken = (performance.now() - start) / ids.length;
    if (ids.length >= LONG_ENOUGH) this.fastest.note({ msPerToken });
    return { data, dims: [1, data.length] };
  }

  async dispose(): Promise<void> {
    this.worker.end(disposed());
  }
}

export class InPlace implements Computing {
  constructor(
    readonly longest: number,
    readonly choice: Choice,
    private engine: EncoderEngine | null,
  ) {}

  async run(ids: number[], types: number[]): Promise<Output> {
    if (!this.engine) throw disposed();
    const data = this.engine.run(ids, types);
    return { data, dims: [1, data.length] };
  }

  async dispose(): Promise<void> {
    this.engine = null;
  }
}

export class InOrt implements Computing {
  readonly longest = LONGEST;

  constructor(
    readonly choice: Choice,
    private readonly ort: typeof Ort,
    private session: Ort.InferenceSession | null,
  ) {}

  async run(ids: number[], types: number[]): Promise<Output> {
    const session = this.session;
    if (!session) throw disposed();
    const tensor = (values: number[]) => new this.ort.Tensor("int64", BigInt64Array.from(values.map(BigInt)), [1, values.length]);
    const all: Record<string, Ort.Tensor> = {
      input_ids: tensor(ids),
      attention_mask: tensor(ids.map(() => 1)),
      token_type_ids: tensor(types),
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

function disposed(): LabError {
  return new LabError("disposed", "the model was disposed of");
}
