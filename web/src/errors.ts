/** What may go wrong, by kind: a program can ask for `kind`, a person reads `message` and `hint`. */
export type ErrorKind =
  | "network" // no answer, or a connection that broke and stayed broken
  | "missing" // the server has no such file
  | "damaged" // bytes that are not what the manifest says
  | "unsupported" // this model, or this browser, cannot
  | "memory" // the model does not fit
  | "cancelled"
  | "disposed"
  | "input" // what was asked makes no sense
  | "engine"; // it failed within

export class LabError extends Error {
  constructor(
    readonly kind: ErrorKind,
    message: string,
    readonly hint = "",
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "LabError";
  }

  /** As it crosses from a worker to the page. */
  static pack(error: unknown): PackedError {
    const known = LabError.from(error);
    return { kind: known.kind, message: known.message, hint: known.hint };
  }

  static unpack(packed: PackedError): LabError {
    return new LabError(packed.kind, packed.message, packed.hint);
  }

  static from(error: unknown): LabError {
    if (error instanceof LabError) return error;
    if (error instanceof DOMException && error.name === "AbortError") return cancelled();
    const said = error instanceof Error ? error.message : String(error);
    if (error instanceof RangeError && /memory/i.test(said)) {
      return new LabError("memory", said, "close other tabs, or take a smaller model");
    }
    return new LabError("engine", said);
  }
}

export interface PackedError {
  kind: ErrorKind;
  message: string;
  hint: string;
}

export function cancelled(): LabError {
  return new LabError("cancelled", "it was cancelled");
}

/** Throws where the signal was given. */
export function check(signal?: AbortSignal): void {
  if (signal?.aborted) throw cancelled();
}
