/** What the page and the engine's worker say to each other. */
import type { PackedError } from "./errors";
import type { Manifest } from "./manifest";
import type { Progress } from "./download";
import type { Sampling } from "./sampler";

/** The engine with or without relaxed instructions; ONNX Runtime on the processor or the GPU. */
export type Variant = "relaxed" | "plain" | "wasm" | "webgpu";

export interface LoadRequest {
  kind: "load";
  base: string;
  manifest: Manifest;
  variant: Variant;
  threads: number; // at most
  positions: number;
  store: "auto" | "opfs" | "cache" | "none";
}

export interface GenerateRequest {
  kind: "generate";
  ids: number[];
  ends: number[];
  maxTokens: number;
  sampling: Sampling;
}

export type Request =
  | LoadRequest
  | GenerateRequest
  | { kind: "logits"; ids: number[] }
  | { kind: "encode"; ids: number[]; types: number[] }
  | { kind: "measure"; tokens: number }
  | { kind: "choose"; counts: number[]; milliseconds: number }
  | { kind: "threads"; threads: number }
  | { kind: "cancel"; of: number };

export interface Timing {
  threads: number;
  msPerToken: number; // median
}

export interface Loaded {
  bytes: number; // of the engine's memory; 0: unknown
  variant: Variant; // what came of the one that was asked for
  store: string;
  fetched: number;
  seconds: number;
}

export interface Generated {
  tokens: number;
  reason: "end" | "length";
  prompt: number; // tokens that had to be computed
  firstMs: number; // until the first token
  msPerToken: number; // median
}

export type Reply =
  | { id: number; kind: "done"; result: unknown }
  | { id: number; kind: "failed"; error: PackedError }
  | { id: number; kind: "progress"; progress: Progress }
  | { id: number; kind: "tokens"; tokens: number[] };
