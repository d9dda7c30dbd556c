// A decoder by the engine's WebAssembly; prints the logits' bits as base64.
import { open } from "./engine.mjs";

const [binary, words, weights, idsText] = process.argv.slice(2);
const decoder = open("decoder", binary, words, weights);
const ids = JSON.parse(idsText);
decoder.put(decoder.call("ids"), ids);
decoder.call("step", ids.length, 0);
const [, vocab] = decoder.words;
console.log(JSON.stringify(ids.map((_, i) => decoder.base64(decoder.call("logits", i), vocab))));
