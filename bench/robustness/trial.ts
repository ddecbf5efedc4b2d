/** One input, what has to become of it, and what did. */
import { UserError } from "../../src/errors.js";
import type { Random } from "../../src/random.js";

/**
 * - `right`: what had to come out is known, and it came out.
 * - `accepted`: a changed input that its format still allows. What it means now is nobody's to say; it was read, and what was read is sound.
 * - `refused`: a `UserError` that names the place.
 * - `wrong`: other values came out, a good input was refused, a bad one was not, or the refusal is unfit for people.
 * - `crashed`: the process died, or an error that is none of the caller's.
 * - `hung`: no answer within the kind's limit.
 */
export const outcomes = ["right", "accepted", "refused", "wrong", "crashed", "hung"] as const;
export type Outcome = (typeof outcomes)[number];

export interface Trial {
  /** Which sort of input it is, such as "PNG, bits turned". */
  readonly form: string;
  /** "read": a good one; "refuse": a bad one; "either": a changed one, of which nobody can say. */
  readonly must: "read" | "refuse" | "either";
  /** Reads it. Returns nothing if what was read is as it has to be, else what is wrong with it. */
  readonly run: () => Promise<string | undefined>;
  /** Of "either": whether `run` knows the right values all the same. */
  readonly known?: boolean;
}

export interface Verdict {
  readonly outcome: Outcome;
  readonly form: string;
  /** Of what is wrong. */
  readonly note?: string;
}

/** Makes the trial of a number. Equal numbers make equal trials. */
export type Trials = (random: Random, index: number) => Trial | Promise<Trial>;

export interface Kind {
  readonly name: string;
  /** In the table. */
  readonly title: string;
  /** What is tried and what counts as right, for the page. */
  readonly rule: string;
  /** How many in all, and in a quick run. */
  readonly count: number;
  readonly quick: number;
  /** Trials of one process, where a thousand would add up in its memory. */
  readonly each?: number;
  /** Milliseconds after which a trial hangs: far above what any takes. */
  readonly limit: number;
  /** Makes what the trials share, in an empty folder of their own. */
  prepare(folder: string): Promise<Trials>;
}

/** A message is read by people, in a terminal. */
const longestMessage = 5000;

export async function judge({ form, must, run, known = false }: Trial): Promise<Verdict> {
  const wrong = (note: string): Verdict => ({ outcome: "wrong", form, note: note.slice(0, 500) });
  try {
    const fault = await run();
    if (fault !== undefined) return wrong(fault);
    if (must === "refuse") return wrong("was accepted");
    return { outcome: must === "read" || known ? "right" : "accepted", form };
  } catch (error) {
    if (!(error instanceof UserError)) {
      const { name = "", message = String(error), stack = "" } = error as Partial<Error>;
      const where = /\((?:file:\/\/)?[^()]*?\/((?:src|dist|bench)\/[^()]+)\)/.exec(stack)?.[1] ?? "";
      return { outcome: "crashed", form, note: `${name} ${message} ${where}`.slice(0, 500) };
    }
    const { message } = error;
    if (message.length > longestMessage)
      return wrong(`a message of ${message.length} characters: ${message}`);
    if (message.trim() === "") return wrong("an empty message");
    if (must === "read") return wrong(`refused: ${message}`);
    return { outcome: "refused", form };
  }
}
