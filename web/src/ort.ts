/** Sessions of ONNX Runtime over a bundle's graph, whose weights are verified on the way. */
import type * as Ort from "onnxruntime-web";
import { loadFiles, loadWhole, type Downloading } from "./download";

const SCRIPTS = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };

export interface Opened {
  ort: typeof Ort;
  session: Ort.InferenceSession;
  fetched: number; // bytes of weights that came over the network
}

/** Open a graph with its weights. On a GPU, outputs stay there. */
export async function openSession(
  task: Downloading,
  provider: keyof typeof SCRIPTS,
  threads: number,
): Promise<Opened> {
  const { manifest } = task;
  const graph = await loadWhole(task, manifest.model);
  const pieces = new Map<string, Uint8Array>();
  const { fetched } = await loadFiles(task, manifest.pieces, (name) => {
    pieces.set(name, new Uint8Array(manifest.files[name].bytes));
    return pieces.get(name)!;
  });
  const folder = new URL("./ort/", import.meta.url);
  const ort = (await import(/* @vite-ignore */ new URL(SCRIPTS[provider], folder).href)) as typeof Ort;
  ort.env.wasm.wasmPaths = folder.href;
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(graph, {
    executionProviders: [provider],
    externalData: [...pieces].map(([name, data]) => ({ path: name.split("/").pop()!, data })),
    preferredOutputLocation: provider === "webgpu" ? "gpu-buffer" : "cpu",
  });
  return { ort, session, fetched };
}
