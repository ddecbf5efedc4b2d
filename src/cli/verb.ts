/** What a verb of the command line is, and what it is given to work with. */
import type { Readable } from "node:stream";
import type { Arguments, Operands, Options } from "./options.js";
import type { Output } from "./output.js";
import type { Progress } from "./progress.js";

export interface Context {
  /** What is typed or piped in, from stdin. */
  readonly input: Readable;
  /** Whether a person sits before it: input and output are both a terminal. */
  readonly isInteractive: boolean;
  /** Results, on stdout. */
  readonly output: Output;
  /** How far the work has come, on stderr. */
  readonly progress: Progress;
  /** A remark for people, one line on stderr. */
  readonly log: (line: string) => void;
  /** What a library call remarks, each sentence once. */
  readonly notice: (sentence: string) => void;
  /** Aborted by Ctrl-C and by a reader of stdout that has gone away. Pass it on to everything that takes long. */
  readonly signal: AbortSignal;
}

export interface Verb<O extends Options = Options, P extends Operands = Operands> {
  readonly name: string;
  /** One line, in lower case and without a full stop. */
  readonly summary: string;
  readonly operands?: P;
  readonly options: O;
  /** The keys of a line of `--json`, each with what it holds. */
  readonly jsonKeys: { readonly [key: string]: string };
  /** Whole command lines, shown in the help. */
  readonly examples?: readonly string[];
  /**
   * Does the work. Returning is success, unless it returns 1: then the results are out, and they say that
   * something is wrong. Everything else that fails is thrown.
   */
  run(context: Context, args: Arguments<O, P>): Promise<void | 1>;
}

/** Gives `run` the types that its declared options and operands imply. */
export function defineVerb<const O extends Options, const P extends Operands = Record<never, never>>(
  verb: Verb<O, P>,
): Verb {
  return verb;
}
