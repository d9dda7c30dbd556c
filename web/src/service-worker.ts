/** Offline, and threads on any web server: what the page consists of is kept, and answers get the
 * headers that shared memory asks for. Weights pass by: the loader keeps them itself.
 */
const worker = self as unknown as ServiceWorkerGlobalScope;
const NAME = "llmkg-lab-page";
const PAGE = ["./", "style.css", "page.js", "llmkg-lab.js", "engine-worker.js", "helper-worker.js", "ort-worker.js"];
const WEIGHTS = /\.onnx_data(_\d+)?$/;
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

worker.addEventListener("install", (event) => {
  const kept = caches.open(NAME).then((cache) => cache.addAll(PAGE));
  event.waitUntil(kept.then(() => worker.skipWaiting()));
});

worker.addEventListener("activate", (event) => event.waitUntil(worker.clients.claim()));

worker.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin) return;
  if (request.headers.has("Range") || WEIGHTS.test(url.pathname)) return;
  event.respondWith(answer(request));
});

/** From the network, or else as it was kept. */
async function answer(request: Request): Promise<Response> {
  const cache = await caches.open(NAME);
  try {
    const found = await fetch(request);
    if (found.ok && found.status === 200) await cache.put(request, found.clone()).catch(() => undefined);
    return isolated(found);
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: request.mode === "navigate" });
    if (kept) return isolated(kept);
    throw error;
  }
}

function isolated(answer: Response): Response {
  if (!answer.body || answer.type === "opaque") return answer;
  const headers = new Headers(answer.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
}
