/** A model on a server that speaks OpenAI's protocol, as `llmkg-lab serve` does. */
import { cancelled, LabError } from "./errors";
import type { Choice, GenerateOptions, TextModel } from "./decoder-model";
import type { Generated } from "./protocol";
import type { Message } from "./text";

export class ServerModel implements TextModel {
  readonly task = "text-generation";
  readonly choice: Choice;
  last: Generated | null = null;
  private readonly disposing = new AbortController();

  constructor(
    private readonly server: URL,
    private readonly model: string,
    why: string,
  ) {
    this.choice = { engine: `server ${server.host}`, threads: 0, why };
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

  private async ask(path: string, body: unknown, signal: AbortSignal): Promise<Response> {
    let answer: Response;
    try {
      answer = await fetch(new URL(`v1/${path}`, this.server), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
        signal,
      });
    } catch (error) {
      if (signal.aborted) throw cancelled();
      throw new LabError("network", `${this.server.host}: ${(error as Error).message}`, "start it: llmkg-lab serve");
    }
    if (!answer.ok || !answer.body) throw new LabError("network", `${this.server.host} answers ${answer.status}`);
    return answer;
  }
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
