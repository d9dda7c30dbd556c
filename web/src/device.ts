/** What this browser has. */
export interface Device {
  isolated: boolean; // and so has shared memory for threads
  cores: number;
  simd: boolean;
  relaxedSimd: boolean;
  gpu: Gpu | null; // by WebGPU
  memoryGb: number | null; // as the browser says: roughly, no more than some bound, or nothing
  storage: { kind: "opfs" | "cache" | "none"; quota: number | null; usage: number | null };
}

export interface Gpu {
  f16: boolean;
  software: boolean; // computed by the processor, slower than without
  name: string;
}

/* The smallest modules with one vector instruction each: i8x16.popcnt, i8x16.relaxed_swizzle. */
const HEAD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0];
const SIMD = [...HEAD, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const RELAXED = [...HEAD, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11];
const LATEST = 1000; // milliseconds that a GPU may take to say that it is there

function validates(bytes: number[]): boolean {
  return typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(bytes));
}

export async function detect(): Promise<Device> {
  const asked = typeof navigator.storage?.estimate === "function" ? navigator.storage.estimate() : null;
  const [storage, gpu] = await Promise.all([asked?.catch(() => null), findGpu()]);
  const opfs = typeof navigator.storage?.getDirectory === "function";
  return {
    isolated: globalThis.crossOriginIsolated === true,
    cores: navigator.hardwareConcurrency || 1,
    simd: validates(SIMD),
    relaxedSimd: validates(RELAXED),
    gpu,
    memoryGb: (navigator as { deviceMemory?: number }).deviceMemory ?? null,
    storage: {
      kind: opfs ? "opfs" : typeof caches !== "undefined" ? "cache" : "none",
      quota: storage?.quota ?? null,
      usage: storage?.usage ?? null,
    },
  };
}

/** As far as WebGPU says, whose types no library that we take has. */
interface Adapter {
  features: Set<string>;
  isFallbackAdapter?: boolean;
  info?: { isFallbackAdapter?: boolean; vendor?: string; architecture?: string };
}

async function findGpu(): Promise<Gpu | null> {
  const { gpu } = navigator as unknown as { gpu?: { requestAdapter(): Promise<Adapter | null> } };
  const late = new Promise<null>((resolve) => setTimeout(resolve, LATEST, null));
  const adapter = await Promise.race([gpu?.requestAdapter().catch(() => null), late]);
  if (!adapter) return null;
  const { vendor = "", architecture = "" } = adapter.info ?? {};
  const software = adapter.isFallbackAdapter ?? adapter.info?.isFallbackAdapter ?? false;
  return {
    f16: adapter.features.has("shader-f16"),
    software: software || /swiftshader|llvmpipe/i.test(`${vendor} ${architecture}`),
    name: [vendor, architecture].filter(Boolean).join(" ") || "unnamed",
  };
}

/** Threads that may pay: the work is bound by memory, and a browser needs a core of its own. */
export function mostThreads(device: Device, wanted?: number): number {
  if (!device.isolated) return 1;
  return Math.max(1, Math.min(wanted ?? Math.min(device.cores, 8), 64));
}
