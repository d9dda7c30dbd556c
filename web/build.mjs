/** Build what a browser loads into dist/: scripts, the page, ONNX Runtime's plain build. */
import { build } from "esbuild";
import { cpSync, mkdirSync } from "node:fs";

const entries = ["llmkg-lab", "engine-worker", "ort-worker", "helper-worker", "page", "service-worker"];
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
for (const name of ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]) {
  cpSync(`node_modules/onnxruntime-web/dist/${name}`, `dist/ort/${name}`);
}
cpSync("static", "dist", { recursive: true });
