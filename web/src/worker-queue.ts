/** A worker's requests: one at a time, in their order; each may be cancelled. */
import { cancelled, LabError } from "./errors";
import type { Reply, Request } from "./protocol";

export type Answer = (id: number, request: Request, signal: AbortSignal) => Promise<unknown>;

const running = new Map<number, AbortController>();
const pending: { id: number; request: Request }[] = [];
let busy = false;

export function reply(message: Reply): void {
  postMessage(message);
}

/** Answer this worker's messages. */
export function serve(answer: Answer): void {
  onmessage = ({ data }: MessageEvent<{ id: number; request: Request }>) => {
    if (data.request.kind === "cancel") {
      running.get(data.request.of)?.abort();
      return;
    }
    running.set(data.id, new AbortController());
    pending.push(data);
    if (!busy) void work(answer);
  };
}

/** One request at a time: a model has one memory. */
async function work(answer: Answer): Promise<void> {
  busy = true;
  for (let next = pending.shift(); next; next = pending.shift()) {
    const { id, request } = next;
    try {
      reply({ id, kind: "done", result: await answer(id, request, running.get(id)!.signal) });
    } catch (error) {
      reply({ id, kind: "failed", error: LabError.pack(error) });
    }
    running.delete(id);
  }
  busy = false;
}

/** Let messages in, such as one that cancels. */
const channel = new MessageChannel();
export function breathe(signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    channel.port1.onmessage = () => (signal.aborted ? reject(cancelled()) : resolve());
    channel.port2.postMessage(0);
  });
}
