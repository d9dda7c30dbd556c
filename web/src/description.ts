/** A decoder as the engine reads it: 32-bit words (engine/description.c). */
import type { Decoder, Matrix, Place } from "./manifest";

const VERSION = 1;
const NOWHERE = 0xffffffff;

export interface Plan {
  pieces: number[]; // addresses
  frequencies: number; // address
  positions: number;
  threads: number;
}

export function describe(decoder: Decoder, plan: Plan): Uint32Array<ArrayBuffer> {
  const at = (place: Place | null) => (place ? plan.pieces[place[0]] + place[1] : NOWHERE);
  const matrix = (m: Matrix) => [
    ...[m.rows, m.columns, m.bits, m.block_size, Number(m.half_scales)],
    ...[at(m.codes), at(m.scales), at(m.zeros), at(m.bias)],
  ];
  const epsilon = new Uint32Array(Float32Array.of(decoder.epsilon).buffer)[0];
  const words = [
    ...[VERSION, decoder.vocab, decoder.hidden, decoder.layers.length, decoder.head_dim],
    ...[plan.positions, plan.threads, epsilon, plan.frequencies, at(decoder.last_norm)],
    ...matrix(decoder.table),
    ...matrix(decoder.head),
  ];
  for (const layer of decoder.layers) {
    words.push(layer.heads, layer.kv_heads, layer.width);
    words.push(at(layer.attention_norm), at(layer.query_norm), at(layer.key_norm), at(layer.width_norm));
    words.push(...matrix(layer.qkv), ...matrix(layer.output), ...matrix(layer.gate_up), ...matrix(layer.down));
  }
  return Uint32Array.from(words);
}
