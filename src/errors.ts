/**
 * Two classes of failure. A `UserError` is something that the caller can mend: it says where, what was
 * required, what was found, and the remedy. An `InternalError` is a bug of this package.
 */

/** The caller's mistake, or a broken input. Ends the command line with `exitCode`. */
export class UserError extends Error {
  override readonly name: string = "UserError";
  /** 1: the work failed; 2: the command or an option is wrong. */
  readonly exitCode: 1 | 2;

  constructor(message: string, options: { exitCode?: 1 | 2; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.exitCode = options.exitCode ?? 1;
  }
}

/** An invariant of this package is broken; please report it. */
export class InternalError extends Error {
  override readonly name: string = "InternalError";
}

/**
 * The work was stopped on request (AbortSignal, Ctrl-C). Ends the command line with 130. Its `name` is the one by which callers know
 * an aborted call, `AbortError`, or `TimeoutError` where the signal was one of time; `cause` is the signal's reason.
 */
export class InterruptedError extends Error {
  override readonly name: string;

  constructor(message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    const isTimeout = options.cause instanceof Error && options.cause.name === "TimeoutError";
    this.name = isTimeout ? "TimeoutError" : "AbortError";
  }
}

/** What to throw where a signal has been given. */
export const interrupted = (
  signal: AbortSignal | undefined,
  message = "stopped on request",
): InterruptedError => new InterruptedError(message, { cause: signal?.reason });

/** Throws an `InterruptedError` if the signal has been given. */
export function stopIf(signal: AbortSignal | undefined, message?: string): void {
  if (signal?.aborted === true) throw interrupted(signal, message);
}
