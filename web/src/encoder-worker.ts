/** The leader of the engine for an encoder: one text at a time. */
import type { EncoderEngine } from "./encoder-engine";
import { loadEncoder, type Made } from "./engine-loading";
import { LabError } from "./errors";
import type { Loaded, LoadRequest } from "./protocol";
import { choose } from "./timing";
import { breathe, reply, serve } from "./worker-queue";

const TEXT = 16; // tokens of the texts that are timed

let model: Made<EncoderEngine> | null = null;

serve(async (id, request, signal) => {
  switch (request.kind) {
    case "load":
      return load(id, request, signal);
    case "encode":
      return opened().engine.run(request.ids, request.types);
    case "choose":
      return choose(request, (threads) => opened().helpers.use(threads), (share) => timeTexts(share, signal));
    case "threads":
      return opened().helpers.use(request.threads);
    default:
      throw new LabError("input", "the worker does not know this request");
  }
});

async function load(id: number, request: LoadRequest, signal: AbortSignal): Promise<Loaded> {
  model = await loadEncoder(request, { signal, onProgress: (progress) => reply({ id, kind: "progress", progress }) });
  return model.loaded;
}

function opened(): Made<EncoderEngine> {
  if (!model) throw new LabError("disposed", "no model is loaded");
  return model;
}

/** Milliseconds per token of short texts, one after the other. */
async function timeTexts(milliseconds: number, signal: AbortSignal): Promise<number[]> {
  const { engine } = opened();
  const types = new Array(TEXT).fill(0);
  const times: number[] = [];
  const end = performance.now() + milliseconds;
  for (let last = 0; !times.length || performance.now() + last < end; ) {
    await breathe(signal);
    const start = performance.now();
    engine.run(types.map((_, i) => (times.length * TEXT + i) % engine.vocab), types);
    last = performance.now() - start;
    times.push(last / TEXT);
  }
  return times;
}
