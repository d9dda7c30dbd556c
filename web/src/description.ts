/** Models as the engine reads them: 32-bit words (engine/*_description.c). */
import type { Decoder, Encoder, Matrix, Norm, Place } from "./manifest";

export const VERSION = 2; // of the engine that they are for
const NOWHERE = 0xffffffff;
const OUTPUTS = ["mean", "first", "scores"]; // Output of engine/encoder.h

interface Plan {
  pieces: number[]; // addresses
  positions: number;
  threads: number;
}

export interface DecoderPlan extends Plan {
  frequencies: number; // address
}

type At = (place: Place | null | undefined) => number;

function addresses(pieces: number[]): At {
  return (place) => (place ? pieces[place[0]] + place[1] : NOWHERE);
}

function matrix(at: At, m: Matrix | null | undefined): number[] {
  if (!m) return [0, 0, 0, 0, 0, NOWHERE, NOWHERE, NOWHERE, NOWHERE];
  return [
    ...[m.rows, m.columns, m.bits, m.block_size, Number(m.half_scales)],
    ...[at(m.codes), at(m.scales), at(m.zeros), at(m.bias)],
  ];
}

function word(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0];
}

export function describe(decoder: Decoder, plan: DecoderPlan): Uint32Array<ArrayBuffer> {
  const at = addresses(plan.pieces);
  const words = [
    ...[VERSION, decoder.vocab, decoder.hidden, decoder.layers.length, decoder.head_dim],
    ...[plan.positions, plan.threads, word(decoder.epsilon), plan.frequencies, at(decoder.last_norm)],
    ...matrix(at, decoder.table),
    ...matrix(at, decoder.head),
  ];
  for (const layer of decoder.layers) {
    words.push(layer.heads, layer.kv_heads, layer.width);
    words.push(at(layer.attention_norm), at(layer.query_norm), at(layer.key_norm), at(layer.width_norm));
    for (const m of [layer.qkv, layer.output, layer.gate_up, layer.down]) words.push(...matrix(at, m));
  }
  return Uint32Array.from(words);
}

export function describeEncoder(encoder: Encoder, plan: Plan): Uint32Array<ArrayBuffer> {
  const at = addresses(plan.pieces);
  const norm = ({ gain, shift }: Norm) => [at(gain), at(shift)];
  const { classifier } = encoder;
  const words = [
    ...[VERSION, encoder.vocab, encoder.hidden, encoder.layers.length, encoder.heads, encoder.width],
    ...[plan.positions, encoder.types, plan.threads],
    ...[OUTPUTS.indexOf(encoder.output), encoder.output_size, Number(encoder.normalizes), word(encoder.epsilon)],
    ...[at(encoder.places), at(encoder.kinds), ...norm(encoder.first_norm)],
    ...[at(classifier?.weight), at(classifier?.bias)],
    ...matrix(at, encoder.words),
    ...matrix(at, classifier?.pooler),
  ];
  for (const layer of encoder.layers) {
    words.push(...norm(layer.attention_norm), ...norm(layer.width_norm));
    for (const m of [layer.qkv, layer.output, layer.widen, layer.narrow]) words.push(...matrix(at, m));
  }
  return Uint32Array.from(words);
}
