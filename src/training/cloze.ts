import { ignoreIndex } from "../objectives/cross-entropy.js";
import type { RowTokens } from "./row-tokens.js";

/** A text in two pieces: what is given, and what is to be said. */
export interface Cloze {
  readonly before: string;
  readonly missing: string;
}

/** A statement cut behind its verb: what it is about stands before ("the color of the star is" "red"). */
export function clozeOf(statement: string): Cloze {
  const words = statement.split(" ");
  const verb = words.findLastIndex((word) => word === "is" || word === "are");
  const cut = verb < 0 || verb === words.length - 1 ? words.length - 1 : verb + 1;
  return { before: words.slice(0, cut).join(" "), missing: words.slice(cut).join(" ") };
}

/**
 * Clozes for a decoder, one behind the other, each closed by the end token: it reads what is given (`said`), and learns what
 * is missing (`labels`, elsewhere `ignoreIndex`). What no longer fits into `most` ids is left out.
 */
export function dialogueOf(
  clozes: readonly Cloze[],
  tokens: RowTokens,
  most: number,
): { readonly said: readonly number[]; readonly labels: readonly number[] } {
  const [said, labels]: [number[], number[]] = [[], []];
  for (const { before, missing } of clozes) {
    const [given, answer] = [tokens.words(before), [...tokens.words(missing), tokens.end]];
    if (said.length + given.length + answer.length > most) continue;
    said.push(...given, ...answer);
    labels.push(...given.map(() => ignoreIndex), ...answer);
  }
  return { said, labels };
}
