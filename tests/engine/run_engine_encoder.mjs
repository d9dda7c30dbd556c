// An encoder by the engine's WebAssembly; prints its output's bits as base64.
import { open } from "./engine.mjs";

const [binary, words, weights, text] = process.argv.slice(2);
const encoder = open("encoder", binary, words, weights);
const [ids, types] = JSON.parse(text);
encoder.put(encoder.call("ids"), ids);
encoder.put(encoder.call("types"), types);
const size = encoder.words[10];
console.log(encoder.base64(encoder.call("run", ids.length), size));
