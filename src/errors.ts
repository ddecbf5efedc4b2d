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

/** The work was stopped on request (AbortSignal, Ctrl-C). Ends the command line with 130. */
export class InterruptedError extends Error {
  override readonly name: string = "InterruptedError";
}
