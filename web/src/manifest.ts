/** model_manifest.json: what `llmkg-lab bundle` writes, read with suspicion. */
import { LabError } from "./errors";

export const MANIFEST = "model_manifest.json";
const FORMAT = "llmkg-lab/bundle/1";

/** A tensor's place: piece, offset, bytes. */
export type Place = [piece: number, offset: number, bytes: number];

export interface Matrix {
  rows: number;
  columns: number;
  bits: number;
  block_size: number;
  half_scales: boolean;
  codes: Place;
  scales: Place;
  zeros: Place | null;
  bias: Place | null;
}

export interface Layer {
  heads: number;
  kv_heads: number;
  width: number;
  attention_norm: Place;
  query_norm: Place | null;
  key_norm: Place | null;
  width_norm: Place;
  qkv: Matrix;
  output: Matrix;
  gate_up: Matrix;
  down: Matrix;
}

export interface Decoder {
  vocab: number;
  hidden: number;
  head_dim: number;
  epsilon: number;
  inverse_frequencies: number[];
  last_norm: Place;
  table: Matrix;
  head: Matrix;
  layers: Layer[];
}

export interface Norm {
  gain: Place;
  shift: Place;
}

export interface EncoderLayer {
  attention_norm: Norm;
  width_norm: Norm;
  qkv: Matrix;
  output: Matrix;
  widen: Matrix;
  narrow: Matrix;
}

export interface Encoder {
  vocab: number;
  hidden: number;
  heads: number;
  width: number;
  positions: number;
  types: number;
  epsilon: number;
  output: "mean" | "first" | "scores";
  output_size: number;
  normalizes: boolean;
  words: Matrix;
  places: Place;
  kinds: Place;
  first_norm: Norm;
  classifier: { pooler: Matrix; weight: Place; bias: Place } | null;
  layers: EncoderLayer[];
}

export interface File {
  bytes: number;
  sha256: string;
  ranges?: string[];
}

export type Task = "text-generation" | "sentence-embedding" | "text-ranking" | string;

/** What the artifact's report measured, on the machine that made it. Empty where there is none. */
export interface Performance {
  summary?: string;
  verdict?: string;
  smoke?: boolean; // figures that mean little
  quality?: Record<string, { title: string; value: number; low: number | null; high: number | null }>;
  speed?: Record<string, { title: string; value: number }>;
  machine?: string | null;
}

export interface Manifest {
  format: string;
  name: string;
  version: string;
  architecture: string;
  task: Task;
  parameters: number;
  quantization: string;
  quantization_in_words?: string;
  bundle_size: number;
  fingerprint: string;
  model: string;
  range: number;
  context_length?: number;
  pooling?: { mode: string; normalize: boolean; max_length?: number | null; prompt?: string };
  performance: Performance;
  smaller?: string[]; // bundles to take in its place where memory is short, relative to this one
  engine: { decoder?: Decoder; encoder?: Encoder; refused?: string };
  pieces: string[];
  files: Record<string, File>;
}

function damaged(what: string): LabError {
  return new LabError("damaged", `${MANIFEST}: ${what}`, "make the bundle again: llmkg-lab bundle");
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** Read a manifest; throws LabError on anything that is not one of a bundle. */
export function parseManifest(text: string): Manifest {
  let said: Manifest;
  try {
    said = JSON.parse(text);
  } catch {
    throw damaged("it is not JSON; the server may have sent a page in its place");
  }
  if (said?.format !== FORMAT) throw damaged(`the format is ${String(said?.format)}, not ${FORMAT}`);
  if (!isCount(said.range) || said.range < 4096) throw damaged("range is not a size");
  for (const [name, file] of Object.entries(said.files ?? {})) checkFile(name, file, said.range);
  for (const name of [...(said.pieces ?? []), said.model]) {
    if (!said.files?.[name]) throw damaged(`files lacks ${name}`);
  }
  const check = new Check(said);
  if (said.engine?.decoder) checkDecoder(said.engine.decoder, check);
  if (said.engine?.encoder) checkEncoder(said.engine.encoder, check);
  return said;
}

function checkFile(name: string, file: File, range: number): void {
  const parts = name.split("/");
  if (parts.some((part) => part === "" || part === "." || part === "..") || /[\\:?#]/.test(name)) {
    throw damaged(`${name} is not a file of the folder`);
  }
  const ranges = file.ranges ?? [file.sha256];
  const hashes = [file.sha256, ...ranges].every((hash) => /^[0-9a-f]{64}$/.test(hash));
  if (!isCount(file.bytes) || !hashes) throw damaged(`${name} has no size and hash`);
  if (ranges.length !== Math.max(1, Math.ceil(file.bytes / range))) {
    throw damaged(`${name} has ${ranges.length} hashes for ${file.bytes} bytes`);
  }
}

/** Every place must lie in its piece, and hold what the shapes ask for. */
class Check {
  constructor(private readonly manifest: Manifest) {}

  place(at: Place | null, bytes: number, what: string): void {
    if (at === null) return;
    const { files, pieces } = this.manifest;
    const file = files[pieces[at?.[0]]];
    const inside = file && at.every(isCount) && at[1] + at[2] <= file.bytes && at[1] % 4 === 0;
    if (!inside || at[2] < bytes) throw damaged(`${what} lies outside its piece`);
  }

  floats(at: Place | null, count: number, what: string): void {
    this.place(at, 4 * count, what);
  }

  norm(norm: Norm, size: number, what: string): void {
    this.floats(norm.gain, size, `${what}.gain`);
    this.floats(norm.shift, size, `${what}.shift`);
  }

  matrix(m: Matrix, what: string): void {
    const blocks = Math.ceil(m.columns / m.block_size);
    this.place(m.codes, (m.rows * blocks * m.block_size * m.bits) / 8, `${what}.codes`);
    this.place(m.scales, m.rows * blocks * (m.half_scales ? 2 : 4), `${what}.scales`);
    this.place(m.zeros, m.rows * Math.ceil((blocks * m.bits) / 8), `${what}.zeros`);
    this.floats(m.bias, m.rows, `${what}.bias`);
  }
}

function checkDecoder(decoder: Decoder, check: Check): void {
  check.floats(decoder.last_norm, decoder.hidden, "last_norm");
  check.matrix(decoder.table, "table");
  check.matrix(decoder.head, "head");
  if (decoder.inverse_frequencies.length !== decoder.head_dim / 2) {
    throw damaged("inverse_frequencies is not half a head");
  }
  decoder.layers.forEach((layer, i) => {
    check.floats(layer.attention_norm, decoder.hidden, `layers.${i}.attention_norm`);
    check.floats(layer.width_norm, decoder.hidden, `layers.${i}.width_norm`);
    check.floats(layer.query_norm, decoder.head_dim, `layers.${i}.query_norm`);
    check.floats(layer.key_norm, decoder.head_dim, `layers.${i}.key_norm`);
    for (const kind of ["qkv", "output", "gate_up", "down"] as const) {
      check.matrix(layer[kind], `layers.${i}.${kind}`);
    }
  });
}

function checkEncoder(encoder: Encoder, check: Check): void {
  const { hidden, classifier } = encoder;
  check.matrix(encoder.words, "words");
  check.floats(encoder.places, encoder.positions * hidden, "places");
  check.floats(encoder.kinds, encoder.types * hidden, "kinds");
  check.norm(encoder.first_norm, hidden, "first_norm");
  if (classifier) {
    check.matrix(classifier.pooler, "classifier.pooler");
    check.floats(classifier.weight, encoder.output_size * hidden, "classifier.weight");
    check.floats(classifier.bias, encoder.output_size, "classifier.bias");
  }
  encoder.layers.forEach((layer, i) => {
    check.norm(layer.attention_norm, hidden, `layers.${i}.attention_norm`);
    check.norm(layer.width_norm, hidden, `layers.${i}.width_norm`);
    for (const kind of ["qkv", "output", "widen", "narrow"] as const) {
      check.matrix(layer[kind], `layers.${i}.${kind}`);
    }
  });
}
