/** The engine's worker, as promises that always settle. */
import { cancelled, LabError } from "./errors";
import type { Progress } from "./download";
import type { Reply, Request } from "./protocol";

interface Call {
  resolve: (result: unknown) => void;
  reject: (error: LabError) => void;
  onProgress?: (progress: Progress) => void;
  onTokens?: (tokens: number[]) => void;
}

export class WorkerClient {
  private readonly worker: Worker;
  private readonly calls = new Map<number, Call>();
  private next = 1;
  private ended: LabError | null = null;

  constructor(url: URL) {
    this.worker = new Worker(url, { type: "module" });
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => this.receive(data);
    this.worker.onerror = (event) => this.end(new LabError("engine", event.message || "the engine's worker failed to start"));
    this.worker.onmessageerror = () => this.end(new LabError("engine", "a message of the engine could not be read"));
  }

  ask<T>(request: Request, signal?: AbortSignal, events: Pick<Call, "onProgress" | "onTokens"> = {}): Promise<T> {
    if (this.ended) return Promise.reject(this.ended);
    if (signal?.aborted) return Promise.reject(cancelled());
    const id = this.next++;
    return new Promise<T>((resolve, reject) => {
      const cancel = () => this.worker.postMessage({ id: 0, request: { kind: "cancel", of: id } });
      signal?.addEventListener("abort", cancel, { once: true });
      const settle = <A>(then: (value: A) => void) => (value: A) => {
        signal?.removeEventListener("abort", cancel);
        this.calls.delete(id);
        then(value);
      };
      this.calls.set(id, { resolve: settle(resolve as (result: unknown) => void), reject: settle(reject), ...events });
      this.worker.postMessage({ id, request });
    });
  }

  /** End the worker and its helpers, and all that waits for it. */
  end(error: LabError): void {
    this.ended ??= error;
    this.worker.terminate();
    for (const call of [...this.calls.values()]) call.reject(this.ended);
  }

  private receive(reply: Reply): void {
    const call = this.calls.get(reply.id);
    if (!call) return;
    if (reply.kind === "done") call.resolve(reply.result);
    else if (reply.kind === "failed") call.reject(LabError.unpack(reply.error));
    else if (reply.kind === "progress") call.onProgress?.(reply.progress);
    else call.onTokens?.(reply.tokens);
  }
}
