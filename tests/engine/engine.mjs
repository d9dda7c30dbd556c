// The engine's WebAssembly over weights and a description from files.
import { readFileSync } from "node:fs";

/** Open what `kind` (decoder, encoder) the words describe; its functions take what comes behind its address. */
export function open(kind, binary, wordsFile, weightsFile) {
  const words = readFileSync(wordsFile);
  const memory = new WebAssembly.Memory({ initial: 4, maximum: 8192, shared: true });
  const module = new WebAssembly.Module(readFileSync(binary));
  const exports = new WebAssembly.Instance(module, { env: { memory } }).exports;

  let end = exports.__heap_base.value;
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
  const base = put(readFileSync(weightsFile));
  const wordsAt = put(words);
  const count = words.length / 4;
  const place = take(exports[`${kind}_bytes`](wordsAt, count));
  const model = exports[`${kind}_open`](wordsAt, count, base, place);
  return {
    words: new Uint32Array(words.buffer, words.byteOffset, count),
    call: (name, ...values) => exports[`${kind}_${name}`](model, ...values),
    put: (at, values) => new Uint32Array(memory.buffer, at, values.length).set(values),
    base64: (at, floats) => Buffer.from(new Uint8Array(memory.buffer, at, 4 * floats)).toString("base64"),
  };
}
