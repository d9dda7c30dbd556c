// A bundle opened by Transformers.js in Node without options: greedy text, or embeddings, as JSON.
import { pathToFileURL } from "node:url";

const [folder, parent, name, task, text, tokens] = process.argv.slice(2);
const library = pathToFileURL(`${folder}/dist/transformers.node.mjs`);
const { pipeline, env } = await import(library.href);
env.allowRemoteModels = false;
env.localModelPath = parent;
const run = await pipeline(task, name);
if (task === "text-generation") {
  const options = { max_new_tokens: Number(tokens), do_sample: false, return_full_text: false };
  console.log(JSON.stringify((await run(text, options))[0].generated_text));
} else {
  const vectors = await run(text, { pooling: "mean", normalize: true });
  console.log(JSON.stringify(Array.from(vectors.data)));
}
