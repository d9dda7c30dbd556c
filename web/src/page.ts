/** The page: choose a model, load it, then chat, or search. */
import {
  cosine,
  DecoderModel,
  detect,
  EmbeddingModel,
  LabError,
  load,
  MANIFEST,
  parseManifest,
  RankingModel,
  type Device,
  type Manifest,
  type Message,
  type Model,
  type TextModel,
} from "./llmkg-lab.js";

interface Entry {
  name: string;
  url: string;
  manifest: Manifest | null;
}

const LISTING = "bundles.json";
const RELOADED = "llmkg-lab-reloaded";
const query = new URLSearchParams(location.search);

function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

const view = {
  model: element<HTMLSelectElement>("model"),
  load: element<HTMLButtonElement>("load"),
  cancel: element<HTMLButtonElement>("cancel"),
  facts: element("facts"),
  progress: element<HTMLProgressElement>("progress"),
  status: element("status"),
  problem: element("problem"),
  chat: element("chat"),
  chatTitle: element("chat-title"),
  messages: element("messages"),
  ask: element<HTMLFormElement>("ask"),
  question: element<HTMLTextAreaElement>("question"),
  send: element<HTMLButtonElement>("send"),
  stop: element<HTMLButtonElement>("stop"),
  search: element("search"),
  searchTitle: element("search-title"),
  texts: element<HTMLTextAreaElement>("texts"),
  find: element<HTMLFormElement>("find"),
  query: element<HTMLInputElement>("query"),
  results: element("results"),
  how: element("how"),
  device: element("device"),
};

let entries: Entry[] = [];
let model: Model | null = null;
let loading: AbortController | null = null;
let answering: AbortController | null = null;
let conversation: Message[] = [];

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

function fail(error: unknown): void {
  const known = LabError.from(error);
  if (known.kind === "cancelled") {
    view.status.textContent = "Cancelled.";
    return;
  }
  view.problem.textContent = known.hint ? `${known.message}: ${known.hint}.` : `${known.message}.`;
  view.problem.hidden = false;
  view.status.textContent = "";
}

/** Threads need an isolated page; where the server sends no headers, the service worker adds them. */
async function prepare(): Promise<void> {
  if (!("serviceWorker" in navigator) || query.get("worker") === "none") return;
  try {
    await navigator.serviceWorker.register("service-worker.js");
    await Promise.race([navigator.serviceWorker.ready, new Promise((resolve) => setTimeout(resolve, 3000))]);
    if (!crossOriginIsolated && !sessionStorage.getItem(RELOADED)) {
      sessionStorage.setItem(RELOADED, "1");
      location.reload();
    }
  } catch {
    // without it: one thread, and no second visit offline
  }
}

async function list(): Promise<Entry[]> {
  const answer = await fetch(LISTING).catch(() => null);
  let found: { name: string; url: string }[] = [{ name: "this bundle", url: "./" }];
  if (answer?.ok && answer.headers.get("content-type")?.includes("json")) found = await answer.json();
  return Promise.all(found.map(async (entry) => ({ ...entry, manifest: await describe(entry.url) })));
}

async function describe(url: string): Promise<Manifest | null> {
  try {
    return parseManifest(await (await fetch(new URL(MANIFEST, new URL(url, location.href)))).text());
  } catch {
    return null;
  }
}

function showEntries(): void {
  view.model.replaceChildren(
    ...entries.map(({ name, manifest }, i) => {
      const option = document.createElement("option");
      option.value = String(i);
      option.textContent = manifest ? titleOf(name, manifest) : `${name}: no bundle`;
      option.disabled = !manifest;
      return option;
    }),
  );
  view.load.disabled = !entries.some((entry) => entry.manifest);
  showFacts();
}

/** What a report says that a model lost and needs, without its size. */
function figures({ performance }: Manifest): string[] {
  return (performance?.summary ?? "").split(", ").slice(1);
}

/** A model in the list: its size, and what it lost. */
function titleOf(name: string, manifest: Manifest): string {
  return [`${name} (${megabytes(manifest.bundle_size)})`, ...figures(manifest)].join(", ");
}

function showFacts(): void {
  const { manifest } = entries[Number(view.model.value)] ?? {};
  if (!manifest) return;
  const { architecture, quantization, quantization_in_words: words } = manifest;
  const millions = (manifest.parameters / 1e6).toPrecision(3);
  view.facts.textContent =
    `${architecture}, ${millions} million parameters as ${quantization}${words ? ` (${words})` : ""}, ` +
    `${megabytes(manifest.bundle_size)} to load. ${measured(manifest)}`;
}

/** What the model's report says of it. */
function measured(manifest: Manifest): string {
  const { verdict, smoke, machine } = manifest.performance ?? {};
  if (!verdict) return "Nothing was measured of it.";
  const caution = smoke ? " in a smoke run, whose figures mean little" : "";
  return `Measured${machine ? ` on ${machine}` : ""}${caution}: ${figures(manifest).join(", ")} (${verdict}).`;
}

async function loadChosen(): Promise<void> {
  const entry = entries[Number(view.model.value)];
  await model?.dispose();
  model = null;
  conversation = [];
  view.messages.replaceChildren();
  view.results.replaceChildren();
  view.problem.hidden = true;
  view.chat.hidden = view.search.hidden = true;
  view.how.textContent = "";
  loading = new AbortController();
  view.load.hidden = true;
  view.cancel.hidden = view.progress.hidden = false;
  try {
    const store = (query.get("store") ?? "auto") as "auto";
    const server = query.get("server") ?? undefined;
    const threads = query.has("threads") ? Number(query.get("threads")) : undefined;
    const relaxedSimd = query.get("relaxed") !== "none";
    const gpu = (query.get("gpu") ?? "auto") as "auto";
    const smaller = smallerThan(entry);
    const onProgress = ({ loaded, total, secondsLeft }: { loaded: number; total: number; secondsLeft: number }) => {
      view.progress.max = total;
      view.progress.value = loaded;
      const left = Number.isFinite(secondsLeft) && loaded < total ? `, ${Math.ceil(secondsLeft)} s left` : "";
      view.status.textContent = `${megabytes(loaded)} of ${megabytes(total)}${left}`;
    };
    const { signal } = loading;
    model = await load(entry.url, { signal, onProgress, store, server, smaller, threads, relaxedSimd, gpu });
    showLoaded(model);
  } catch (error) {
    fail(error);
  } finally {
    view.load.hidden = false;
    view.cancel.hidden = view.progress.hidden = true;
    loading = null;
  }
}

/** The other models of the list that do the same and are smaller, the largest of them first. */
function smallerThan({ manifest }: Entry): string[] {
  const fitting = entries.filter((other) => {
    const found = other.manifest;
    return found && manifest && found.task === manifest.task && found.bundle_size < manifest.bundle_size;
  });
  fitting.sort((a, b) => b.manifest!.bundle_size - a.manifest!.bundle_size);
  return fitting.map(({ url }) => url);
}

function showLoaded(loaded: Model): void {
  const { choice } = loaded;
  const from = !choice.loaded
    ? ""
    : choice.loaded.fetched
      ? ` ${megabytes(choice.loaded.fetched)} came over the network.`
      : " Nothing came over the network.";
  const threads = choice.threads ? `, ${choice.threads} ${choice.threads === 1 ? "thread" : "threads"}` : "";
  const seconds = choice.loaded ? ` in ${choice.loaded.seconds.toFixed(1)} s` : "";
  view.status.textContent = `Ready${seconds}.${from}`;
  view.how.textContent = `Run by ${choice.engine}${threads}: ${choice.why}.`;
  const chats = loaded.task === "text-generation";
  view.chat.hidden = !chats;
  view.search.hidden = chats;
  if (chats) view.chatTitle.textContent = converses(loaded as TextModel) ? "Chat" : "Continue a text";
  view.searchTitle.textContent = loaded.task === "text-ranking" ? "Rank passages for a query" : "Search by meaning";
  (chats ? view.question : view.query).focus();
}

/** Whether a model was taught to chat; what was not goes on with a text. */
function converses(text: TextModel): boolean {
  return !(text instanceof DecoderModel) || text.tokenizer.chats;
}

function addMessage(role: string, text: string): HTMLElement {
  const message = document.createElement("div");
  message.className = `message ${role}`;
  message.textContent = text;
  view.messages.append(message);
  view.messages.scrollTop = view.messages.scrollHeight;
  return message;
}

function sampling(): Record<string, number> {
  const names = ["temperature", "top_k", "top_p", "repetition_penalty", "max_tokens", "seed"];
  const values = names.map((name) => [name, element<HTMLInputElement>(name).value] as const);
  return Object.fromEntries(values.filter(([, value]) => value !== "").map(([name, value]) => [name, Number(value)]));
}

async function answer(question: string): Promise<void> {
  const text = model as TextModel;
  view.problem.hidden = true;
  addMessage("user", question);
  conversation.push({ role: "user", content: question });
  const shown = addMessage("assistant", "");
  shown.setAttribute("aria-busy", "true");
  answering = new AbortController();
  view.send.hidden = true;
  view.stop.hidden = false;
  view.status.textContent = "Reading.";
  let said = "";
  try {
    const prompt = converses(text) ? conversation : question;
    for await (const piece of text.generate(prompt, { ...sampling(), signal: answering.signal })) {
      said += piece;
      shown.textContent = said;
      view.messages.scrollTop = view.messages.scrollHeight;
      view.status.textContent = "Writing.";
    }
    const last = text.last;
    if (last) {
      const rate = last.msPerToken ? `, ${last.msPerToken.toFixed(1)} ms per token` : "";
      view.status.textContent = `${last.tokens} tokens; the first after ${Math.round(last.firstMs)} ms${rate}.`;
    }
  } catch (error) {
    fail(error);
  } finally {
    conversation.push({ role: "assistant", content: said });
    shown.removeAttribute("aria-busy");
    view.send.hidden = false;
    view.stop.hidden = true;
    answering = null;
    view.question.focus();
  }
}

async function find(): Promise<void> {
  const passages = view.texts.value.split(/\n+/).map((line) => line.trim()).filter(Boolean);
  view.problem.hidden = true;
  const start = performance.now();
  try {
    const scores = await scored(view.query.value, passages);
    const order = passages.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
    view.results.replaceChildren(
      ...order.slice(0, 20).map((i) => {
        const item = document.createElement("li");
        const score = document.createElement("span");
        score.className = "score";
        score.textContent = scores[i].toFixed(3);
        item.append(score, passages[i]);
        return item;
      }),
    );
    view.status.textContent = `${passages.length} passages in ${Math.round(performance.now() - start)} ms.`;
  } catch (error) {
    fail(error);
  }
}

async function scored(question: string, passages: string[]): Promise<number[]> {
  if (model instanceof RankingModel) return model.rank(question, passages);
  const vectors = await (model as EmbeddingModel).embed([question, ...passages]);
  return vectors.slice(1).map((vector) => cosine(vectors[0], vector));
}

function dropInto(area: HTMLTextAreaElement): void {
  area.addEventListener("dragover", (event) => (event.preventDefault(), area.classList.add("dropping")));
  area.addEventListener("dragleave", () => area.classList.remove("dropping"));
  area.addEventListener("drop", async (event) => {
    event.preventDefault();
    area.classList.remove("dropping");
    const file = event.dataTransfer?.files[0];
    if (file && file.size < 10e6) area.value = await file.text();
  });
}

/** What this browser has, in words. */
function showDevice({ isolated, cores, simd, relaxedSimd, gpu, memoryGb, storage }: Device): void {
  const yes = (is: boolean) => (is ? "yes" : "no");
  const room = storage.quota === null ? "" : `, ${megabytes(storage.quota - (storage.usage ?? 0))} free`;
  const kinds = { opfs: "private files", cache: "cache", none: "none" };
  const facts = {
    "Cores": String(cores),
    "Threads (isolated page)": yes(isolated),
    "SIMD": yes(simd),
    "Relaxed SIMD": yes(relaxedSimd),
    "WebGPU": gpu ? `${gpu.name}${gpu.software ? ", by software" : ""}; float16: ${yes(gpu.f16)}` : "no",
    "Memory": memoryGb === null ? "not told" : `${memoryGb} GB${memoryGb >= 8 ? " or more" : ""}`,
    "Store": `${kinds[storage.kind]}${room}`,
  };
  const terms = Object.entries(facts).flatMap(([name, value]) => {
    const pair = [document.createElement("dt"), document.createElement("dd")];
    [pair[0].textContent, pair[1].textContent] = [name, value];
    return pair;
  });
  view.device.replaceChildren(...terms);
}

view.load.onclick = () => void loadChosen();
view.cancel.onclick = () => loading?.abort();
view.stop.onclick = () => answering?.abort();
view.model.onchange = showFacts;
view.ask.onsubmit = (event) => {
  event.preventDefault();
  const question = view.question.value.trim();
  if (!question || answering) return;
  view.question.value = "";
  void answer(question);
};
view.question.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    view.ask.requestSubmit();
  }
};
view.find.onsubmit = (event) => (event.preventDefault(), void find());
dropInto(view.texts);
await prepare();
entries = await list();
showDevice(await detect());
showEntries();
view.status.textContent = entries.some((entry) => entry.manifest) ? "" : "There is no bundle here.";
