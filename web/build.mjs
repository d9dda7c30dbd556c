/** Build what a browser loads into dist/: scripts, the page, ONNX Runtime's builds without and with WebGPU. */
import { build } from "esbuild";
import { cpSync, mkdirSync } from "node:fs";

const entries = ["llmkg-lab", "engine-worker", "encoder-worker", "ort-worker", "helper-worker", "page", "service-worker"];
await build({
  entryPoints: entries.map((name) => `src/${name}.ts`),
  outdir: "dist",
  bundle: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  minify: true,
  external: ["./llmkg-lab.js"],
});
mkdirSync("dist/ort", { recursive: true });
for (const [script, binary] of [["ort.wasm", ""], ["ort.webgpu", ".asyncify"]]) {
  for (const name of [`${script}.min.mjs`, `ort-wasm-simd-threaded${binary}.mjs`, `ort-wasm-simd-threaded${binary}.wasm`]) {
    cpSync(`node_modules/onnxruntime-web/dist/${name}`, `dist/ort/${name}`);
  }
}
cpSync("static", "dist", { recursive: true });
