/* What each contestant does in the page: load, a prompt of 128 tokens, then tokens one by one.
   Each returns { load_s, prompt_ms, decode_ms (all), first_s }. */
const PROMPT = Array.from({ length: 128 }, (_, i) => (i * 7919 + 13) % 31000); // in every vocabulary
const now = () => performance.now();

export async function ours({ url, threads, relaxed, tokens }) {
  const start = now();
  const { load } = await import("/llmkg-lab.js");
  const model = await load(url, { threads, relaxedSimd: relaxed, store: "none" });
  const loaded = now();
  const options = { temperature: 0, repetition_penalty: 1, max_tokens: tokens };
  const times = [loaded];
  for await (const _ of model.tokens(PROMPT, [], options)) times.push(now());
  return timed(start, times);
}

/* times: when it was loaded, then when each token came. */
function timed(start, times) {
  const [loaded, first, ...later] = times;
  const steps = later.map((time, i) => time - (i ? later[i - 1] : first));
  const result = { load_s: (loaded - start) / 1e3, prompt_ms: first - loaded };
  return { ...result, first_s: (first - start) / 1e3, decode_ms: steps };
}

/* ONNX Runtime's own loop over the bundle's web graph. */
export async function onnxruntime({ url, ort: path, threads, tokens, model, pieces }) {
  const start = now();
  const ort = await import(`${path}/ort.wasm.min.mjs`);
  ort.env.wasm.wasmPaths = `${path}/`;
  ort.env.wasm.numThreads = threads;
  const externalData = pieces.map((name) => ({ path: name.split("/").pop(), data: url + name }));
  const session = await ort.InferenceSession.create(url + model, { executionProviders: ["wasm"], externalData });
  const times = [now()];
  const caches = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values"));
  const cache = Object.fromEntries(
    caches.map(({ name, shape }) => [name, new ort.Tensor("float32", new Float32Array(0), [1, shape[1], 0, shape[3]])]),
  );
  const long = (values, shape) => new ort.Tensor("int64", BigInt64Array.from(values.map(BigInt)), shape);
  let ids = PROMPT;
  let length = 0;
  for (let i = 0; i < tokens; i++) {
    length += ids.length;
    const inputs = { input_ids: long(ids, [1, ids.length]), attention_mask: long(Array(length).fill(1), [1, length]) };
    const results = await session.run({ ...inputs, num_logits_to_keep: long([1], []), ...cache });
    for (const name of Object.keys(cache)) cache[name] = results[name.replace("past_key_values", "present")];
    const logits = results.logits.data;
    let best = 0;
    for (let j = 1; j < logits.length; j++) if (logits[j] > logits[best]) best = j;
    ids = [best];
    times.push(now());
  }
  return timed(start, times);
}

export async function transformers({ parent, name, library, ort, threads, tokens }) {
  const start = now();
  const { AutoModelForCausalLM, Tensor, env } = await import(library);
  Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: parent, useBrowserCache: false });
  Object.assign(env.backends.onnx.wasm, { wasmPaths: ort, numThreads: threads });
  const model = await AutoModelForCausalLM.from_pretrained(name);
  const times = [now()];
  const long = (values) => new Tensor("int64", BigInt64Array.from(values.map(BigInt)), [1, values.length]);
  const streamer = { put: (() => { let seen = 0; return () => { if (seen++) times.push(now()); }; })(), end() {} };
  await model.generate({
    input_ids: long(PROMPT),
    attention_mask: long(PROMPT.map(() => 1)),
    max_new_tokens: tokens,
    min_new_tokens: tokens,
    do_sample: false,
    streamer,
  });
  return timed(start, times);
}

export async function wllama({ library, wasm, url, threads, tokens }) {
  const start = now();
  const { Wllama } = await import(library);
  const engine = new Wllama({ default: wasm }, { suppressNativeLog: true });
  const blob = await (await fetch(url)).blob();
  await engine.loadModel([blob], { n_threads: threads, n_ctx: 512, n_gpu_layers: 0 });
  const times = [now()];
  const prompt = " one two three four five six seven eight".repeat(16); // a token a word
  const stream = await engine.createCompletion({ prompt, max_tokens: tokens, temperature: 0, stream: true, ignore_eos: true });
  for await (const _ of stream) times.push(now());
  return timed(start, times);
}

export async function nothing() {
  return { load_s: 0, decode_ms: [0] };
}

/* An encoder: one short text again and again, then the vectors of sentences. */
export async function embed({ url, threads, text, count, sentences }) {
  const start = now();
  const { load } = await import("/llmkg-lab.js");
  const model = await load(url, { threads, store: "none" });
  const times = [now()];
  for (let i = 0; i < count; i++) {
    await model.embed([text]);
    times.push(now());
  }
  const vectors = (await model.embed(sentences)).map((vector) => [...vector]);
  return { load_s: (times[0] - start) / 1e3, decode_ms: timed(start, times).decode_ms, vectors };
}
