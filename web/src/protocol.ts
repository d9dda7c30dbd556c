/** What the page and the engine's worker say to each other. */
import type { PackedError } from "./errors";
import type { Manifest } from "./manifest";
import type { Progress } from "./download";
import type { Sampling } from "./sampler";

export interface LoadRequest {
  kind: "load";
  base: string;
  manifest: Manifest;
  variant: "relaxed" | "plain";
  threads: number;
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
  | { kind: "measure"; tokens: number }
  | { kind: "cancel"; of: number };

export interface Loaded {
  bytes: number; // of the engine's memory
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
  | { id: number; kind: "token"; token: number };
