/** What this browser has. */
export interface Device {
  isolated: boolean; // and so has shared memory for threads
  cores: number;
  simd: boolean;
  relaxedSimd: boolean;
  webgpu: boolean;
  memoryGb: number | null; // as the browser says, at most 8
  storage: { kind: "opfs" | "cache" | "none"; quota: number | null; usage: number | null };
}

/* The smallest modules with one vector instruction each: i8x16.popcnt, i8x16.relaxed_swizzle. */
const HEAD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0];
const SIMD = [...HEAD, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const RELAXED = [...HEAD, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11];

function validates(bytes: number[]): boolean {
  return typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(bytes));
}

export async function detect(): Promise<Device> {
  const storage = typeof navigator.storage?.estimate === "function" ? await navigator.storage.estimate().catch(() => null) : null;
  const opfs = typeof navigator.storage?.getDirectory === "function";
  return {
    isolated: globalThis.crossOriginIsolated === true,
    cores: navigator.hardwareConcurrency || 1,
    simd: validates(SIMD),
    relaxedSimd: validates(RELAXED),
    webgpu: "gpu" in navigator,
    memoryGb: (navigator as { deviceMemory?: number }).deviceMemory ?? null,
    storage: {
      kind: opfs ? "opfs" : typeof caches !== "undefined" ? "cache" : "none",
      quota: storage?.quota ?? null,
      usage: storage?.usage ?? null,
    },
  };
}

/** Threads that pay: the work is bound by memory, and a browser needs a core of its own. */
export function defaultThreads(device: Device): number {
  return device.isolated ? Math.max(1, Math.min(device.cores, 8)) : 1;
}
