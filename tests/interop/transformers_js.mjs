// A bundle opened by Transformers.js in Node without options: greedy text, or embeddings, as JSON.
import { pathToFileURL } from "node:url";

const [peers, parent, name, task, text] = process.argv.slice(2);
const library = pathToFileURL(`${peers}/node_modules/@huggingface/transformers/dist/transformers.node.mjs`);
const { pipeline, env } = await import(library.href);
env.allowRemoteModels = false;
env.localModelPath = parent;
const run = await pipeline(task, name);
if (task === "text-generation") {
  const [answer] = await run(text, { max_new_tokens: 24, do_sample: false, return_full_text: false });
  console.log(JSON.stringify(answer.generated_text));
} else {
  const vectors = await run(text, { pooling: "mean", normalize: true });
  console.log(JSON.stringify(Array.from(vectors.data)));
}
