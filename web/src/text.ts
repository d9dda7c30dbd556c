/** Tokens in and out: the tokenizer, chat templates, stop texts, text that grows. */
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { LabError } from "./errors";

export interface Message {
  role: "system" | "user" | "assistant" | string;
  content: string;
}

const ENDS = ["</s>", "<|endoftext|>"];
const ANSWER = "An answer 4711."; // as no template would write it
const REPLACEMENT = "\ufffd";
const SPACES = /^\s/;

type Json = Record<string, unknown>;

/** A special token as tokenizer_config.json has it: a string, or an object with its content. */
function content(token: unknown): string | undefined {
  const said = typeof token === "object" && token ? (token as Json).content : token;
  return typeof said === "string" ? said : undefined;
}

export class TextTokenizer {
  private readonly core: Tokenizer;
  private readonly template: Template | null;
  private readonly special: Set<number>;

  constructor(
    tokenizer: Json,
    private readonly config: Json,
    private readonly generation: Json,
    private readonly model: Json,
  ) {
    this.core = new Tokenizer(tokenizer, config);
    this.template = chatTemplate(config);
    const added = [...this.core.get_added_tokens_decoder()];
    this.special = new Set(added.filter(([, token]) => token.special).map(([id]) => id));
  }

  get chats(): boolean {
    return this.template !== null;
  }

  encode(text: string, special = true): number[] {
    return this.core.encode(text, { add_special_tokens: special }).ids;
  }

  /** A text or a pair as an encoder reads it. */
  encodePair(text: string, pair?: string): { ids: number[]; types: number[] } {
    const encoded = this.core.encode(text, { text_pair: pair ?? null, return_token_type_ids: true });
    return { ids: encoded.ids, types: encoded.token_type_ids };
  }

  decode(ids: number[]): string {
    return ids.length ? this.core.decode(ids, { skip_special_tokens: true }) : "";
  }

  chat(messages: Message[], addPrompt = true): string {
    if (!this.template) throw new LabError("unsupported", "this model has no chat template", "give it a text to continue");
    const named = ["bos", "eos", "unk", "pad"].map((name) => `${name}_token`);
    const tokens = Object.fromEntries(named.map((name) => [name, content(this.config[name])]).filter(([, text]) => text));
    try {
      return this.template.render({ messages, add_generation_prompt: addPrompt, tools: null, documents: null, ...tokens });
    } catch (error) {
      throw new LabError("input", `the chat template refuses these messages: ${(error as Error).message}`);
    }
  }

  /** The ids of a prompt, and of what ends the text behind it. */
  prompt(prompt: string | Message[]): { ids: number[]; ends: number[] } {
    const ends = this.ends();
    if (typeof prompt === "string") return { ids: this.encode(prompt), ends };
    const ids = this.encode(this.chat(prompt), false); // the template writes the special tokens
    return { ids, ends: [...ends, ...this.turnEnds()] };
  }

  private ends(): number[] {
    const said = this.generation.eos_token_id ?? this.model.eos_token_id ?? [];
    const ids = (Array.isArray(said) ? said : [said]).filter((id): id is number => Number.isInteger(id));
    const named = [...ENDS, content(this.config.eos_token) ?? ""].map((name) => this.core.token_to_id(name));
    return [...ids, ...named.filter((id): id is number => id !== undefined && this.special.has(id))];
  }

  /** The special token that the template writes behind an answer. */
  private turnEnds(): number[] {
    const turn = (role: string) => ({ role, content: ANSWER });
    try {
      const written = this.chat([turn("user"), turn("assistant")], false);
      const behind = written.slice(written.lastIndexOf(ANSWER) + ANSWER.length).trimStart();
      return this.encode(behind, false).slice(0, 1).filter((id) => this.special.has(id));
    } catch {
      return []; // a template for questions alone
    }
  }
}

function chatTemplate(config: Json): Template | null {
  let said = config.chat_template;
  if (Array.isArray(said)) said = said.find((entry) => entry.name === "default")?.template;
  return typeof said === "string" ? new Template(said) : null;
}

/** Text of tokens that come one by one. What may still change is held back. */
export class Detokenizer {
  private shown: string;
  private ids: number[];

  /** context: the last tokens of the prompt, whose end decides how the first word begins. */
  constructor(private readonly tokenizer: TextTokenizer, context: number[]) {
    this.ids = context.slice(-4);
    this.shown = this.tokenizer.decode(this.ids);
  }

  push(token: number): string {
    this.ids.push(token);
    const text = this.tokenizer.decode(this.ids);
    if (text.endsWith(REPLACEMENT)) return ""; // half a character
    const piece = text.slice(this.shown.length);
    if (this.ids.length > 32 && SPACES.test(piece)) {
      this.ids = this.ids.slice(-4); // a word began: what stands far before it changes nothing
      this.shown = this.tokenizer.decode(this.ids);
    } else this.shown = text;
    return piece;
  }

  flush(): string {
    return this.tokenizer.decode(this.ids).slice(this.shown.length);
  }
}

/** Passes text on up to a stop text; what may be the beginning of one is held back. */
export class StopTexts {
  private held = "";
  stopped = false;

  constructor(private readonly stops: string[] = []) {
    if (stops.includes("")) throw new LabError("input", "a stop text is empty");
  }

  push(piece: string): string {
    if (this.stopped) return "";
    const text = this.held + piece;
    const found = this.stops
      .filter((stop) => text.includes(stop))
      .map((stop) => ({ end: text.indexOf(stop) + stop.length, length: stop.length }))
      .sort((a, b) => a.end - b.end || b.length - a.length)[0];
    if (found) {
      this.stopped = true;
      this.held = "";
      return text.slice(0, found.end - found.length);
    }
    let keep = 0;
    for (const stop of this.stops) {
      for (let n = 1; n < stop.length; n++) if (text.endsWith(stop.slice(0, n))) keep = Math.max(keep, n);
    }
    this.held = text.slice(text.length - keep);
    return text.slice(0, text.length - keep);
  }

  flush(): string {
    const { held } = this;
    this.held = "";
    return held;
  }
}
