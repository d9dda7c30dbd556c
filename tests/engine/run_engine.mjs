// The engine's WebAssembly on words and weights from files; prints the logits' bits as base64.
import { readFileSync } from "node:fs";

const [binary, wordsFile, weightsFile, idsText] = process.argv.slice(2);
const words = readFileSync(wordsFile);
const weights = readFileSync(weightsFile);
const memory = new WebAssembly.Memory({ initial: 4, maximum: 8192, shared: true });
const module = new WebAssembly.Module(readFileSync(binary));
const engine = new WebAssembly.Instance(module, { env: { memory } }).exports;

let end = engine.__heap_base.value;
const take = (bytes) => {
  const at = Math.ceil(end / 64) * 64;
  end = at + bytes;
  const missing = Math.ceil((end - memory.buffer.byteLength) / 65536);
  if (missing > 0) memory.grow(missing);
  return at;
};
const put = (content) => {
  const at = take(content.length);
  new Uint8Array(memory.buffer).set(content, at);
  return at;
};
const base = put(weights);
const wordsAt = put(words);
const place = take(engine.decoder_bytes(wordsAt, words.length / 4));
const decoder = engine.decoder_open(wordsAt, words.length / 4, base, place);
const vocab = new Uint32Array(words.buffer, words.byteOffset, 2)[1];

const ids = JSON.parse(idsText);
new Uint32Array(memory.buffer, engine.decoder_ids(decoder), ids.length).set(ids);
engine.decoder_step(decoder, ids.length, 0);
const logits = ids.map((_, i) => {
  const at = engine.decoder_logits(decoder, i);
  return Buffer.from(new Uint8Array(memory.buffer, at, 4 * vocab)).toString("base64");
});
console.log(JSON.stringify(logits));
