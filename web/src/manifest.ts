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
  bundle_size: number;
  fingerprint: string;
  model: string;
  range: number;
  context_length?: number;
  pooling?: { mode: string; normalize: boolean; max_length?: number | null; prompt?: string };
  performance: Performance;
  smaller?: string[]; // bundles to take in its place where memory is short, relative to this one
  engine: { decoder?: Decoder; refused?: string };
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
  if (said.engine?.decoder) checkDecoder(said.engine.decoder, said);
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
function checkDecoder(decoder: Decoder, manifest: Manifest): void {
  const place = (at: Place | null, bytes: number, what: string) => {
    if (at === null) return;
    const file = manifest.files[manifest.pieces[at?.[0]]];
    const inside = file && at.every(isCount) && at[1] + at[2] <= file.bytes && at[1] % 4 === 0;
    if (!inside || at[2] < bytes) throw damaged(`${what} lies outside its piece`);
  };
  const matrix = (m: Matrix, what: string) => {
    const blocks = Math.ceil(m.columns / m.block_size);
    place(m.codes, (m.rows * blocks * m.block_size * m.bits) / 8, `${what}.codes`);
    place(m.scales, m.rows * blocks * (m.half_scales ? 2 : 4), `${what}.scales`);
    place(m.zeros, m.rows * Math.ceil((blocks * m.bits) / 8), `${what}.zeros`);
    place(m.bias, 4 * m.rows, `${what}.bias`);
  };
  place(decoder.last_norm, 4 * decoder.hidden, "last_norm");
  matrix(decoder.table, "table");
  matrix(decoder.head, "head");
  if (decoder.inverse_frequencies.length !== decoder.head_dim / 2) {
    throw damaged("inverse_frequencies is not half a head");
  }
  decoder.layers.forEach((layer, i) => {
    place(layer.attention_norm, 4 * decoder.hidden, `layers.${i}.attention_norm`);
    place(layer.width_norm, 4 * decoder.hidden, `layers.${i}.width_norm`);
    place(layer.query_norm, 4 * decoder.head_dim, `layers.${i}.query_norm`);
    place(layer.key_norm, 4 * decoder.head_dim, `layers.${i}.key_norm`);
    for (const kind of ["qkv", "output", "gate_up", "down"] as const) {
      matrix(layer[kind], `layers.${i}.${kind}`);
    }
  });
}
