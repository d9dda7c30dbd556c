/** A model on a server that speaks OpenAI's protocol, as `llmkg-lab serve` does. */
import { cancelled, LabError } from "./errors";
import type { Choice } from "./choice";
import type { GenerateOptions, TextModel } from "./decoder-model";
import type { Generated } from "./protocol";
import type { Message } from "./text";

export class ServerModel implements TextModel {
  readonly task = "text-generation";
  readonly choice: Choice;
  last: Generated | null = null;
  private readonly disposing = new AbortController();

  private constructor(
    private readonly server: URL,
    private readonly model: string,
    why: string,
  ) {
    this.choice = { engine: `server ${server.host}, model ${model}`, threads: 0, why };
  }

  /** Ask the server what it has: the model of this name, or else its first. */
  static async open(server: URL, name: string, why: string, signal?: AbortSignal): Promise<ServerModel> {
    const answer = await request(new URL("v1/models", server), { signal });
    const models = ((await answer.json()) as { data?: { id: string }[] }).data ?? [];
    const found = models.find(({ id }) => id === name) ?? models[0];
    if (!found) throw new LabError("missing", `${server.host} has no model`, "start it with one: llmkg-lab serve");
    return new ServerModel(server, found.id, why);
  }

  async *generate(prompt: string | Message[], options: GenerateOptions = {}): AsyncGenerator<string, void, void> {
    const { signal, ...sampling } = options;
    const chat = typeof prompt !== "string";
    const signals = [this.disposing.signal, ...(signal ? [signal] : [])];
    const start = performance.now();
    const answer = await this.ask(chat ? "chat/completions" : "completions", {
      ...sampling,
      ...(chat ? { messages: prompt } : { prompt }),
      model: this.model,
      stream: true,
    }, AbortSignal.any(signals));
    const times: number[] = [];
    let last = start;
    for await (const event of events(answer)) {
      const piece = event.choices?.[0]?.delta?.content ?? event.choices?.[0]?.text ?? "";
      if (!piece) continue;
      times.push(performance.now() - last);
      last = performance.now();
      yield piece;
    }
    const later = times.slice(1).sort((a, b) => a - b);
    this.last = { tokens: times.length, reason: "end", prompt: 0, firstMs: times[0] ?? 0, msPerToken: later[later.length >> 1] ?? 0 };
  }

  dispose(): void {
    this.disposing.abort();
  }

  private ask(path: string, body: unknown, signal: AbortSignal): Promise<Response> {
    const headers = { "Content-Type": "application/json" };
    return request(new URL(`v1/${path}`, this.server), { method: "POST", headers, body: JSON.stringify(body), signal });
  }
}

async function request(url: URL, options: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(url, options);
  } catch (error) {
    if (options.signal?.aborted) throw cancelled();
    throw new LabError("network", `${url.host}: ${(error as Error).message}`, "start it, and allow this page: llmkg-lab serve --origin");
  }
  if (answer.ok && answer.body) return answer;
  throw new LabError("network", `${url.host} answers ${answer.status}`, (await answer.text()).slice(0, 200));
}

interface ServerEvent {
  choices?: { text?: string; delta?: { content?: string } }[];
}

/** Server-sent events, up to [DONE]. */
async function* events(answer: Response): AsyncGenerator<ServerEvent> {
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split(/\r?\n/);
    held = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const said = line.slice(5).trim();
      if (said === "[DONE]") return;
      yield JSON.parse(said) as ServerEvent;
    }
  }
}
