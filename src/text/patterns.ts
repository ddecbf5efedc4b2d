/**
 * The patterns of a tokenizer.json (of `Split` and `Replace`). An expression from a file could keep the thread busy for ever, and
 * Python's tokenizers reads another dialect than JavaScript: only those are taken whose meaning and cost are known.
 */
import { quoted } from "../quoted.js";
import type { Part } from "./parts.js";
import { letter, number } from "./unicode-classes.js";

export interface Pattern {
  /** With the flags g and u. Never matches an empty text. Time grows with the length of the text alone. */
  readonly expression: RegExp;
}

const space = "\\p{White_Space}";
const contractions = "'(?:[sS\\u017f]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])";

/** GPT-2's rule: words, numbers and runs of signs, each with one space before it, and white space. */
export const gpt2Rule =
  `'(?:s|t|re|ve|m|ll|d)| ?[${letter}]+| ?[${number}]+| ?[^${space}${letter}${number}]+` +
  `|${space}+(?!\\P{White_Space})|${space}+`;

const gpt4Rule = (digits: string): string =>
  `${contractions}|[^\\r\\n${letter}${number}]?[${letter}]+|[${number}]${digits}| ?[^${space}${letter}${number}]+[\\r\\n]*` +
  `|${space}*[\\r\\n]+|${space}+(?!\\P{White_Space})|${space}+`;

const gpt4Published = (digits: string): string =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

/** Published expressions, each with what it means to JavaScript. */
const published = new Map([
  ["'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", gpt2Rule],
  [gpt4Published("{1,3}"), gpt4Rule("{1,3}")],
  [gpt4Published(""), gpt4Rule("")],
]);

/** The pattern under the key `pattern`: a plain text, or one of the expressions that are known. */
export function readPattern(part: Part): Pattern {
  const pattern = part.part("pattern");
  if (pattern.has("String")) {
    const text = pattern.string("String");
    if (text === "") throw pattern.refuse("a text that is not empty is required for String");
    return { expression: new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "gu") };
  }
  const source = pattern.string("Regex");
  const known = published.get(source) ?? simple(source);
  if (known !== undefined) return { expression: new RegExp(known, "gu") };
  throw pattern.refuse(
    `the regular expression ${quoted(source)} is not one of those that are known here ` +
      "(GPT-2's and GPT-4's rules, or one character or class, with one quantifier); it is not run, because it could take for ever",
  );
}

const escapes = new Map([
  ["\\s", space],
  ["\\p{L}", letter],
  ["\\p{N}", number],
  ["\\n", "\\n"],
  ["\\r", "\\r"],
  ["\\t", "\\t"],
]);

/** One character or class of characters, as often as wanted: cannot go back over what it has read. */
function simple(source: string): string | undefined {
  const [, not, members, alone, times = ""] = oneOf.exec(source) ?? [];
  const [, least, most] = /^\{(\d),(\d)\}$/.exec(times) ?? [];
  if (Number(most) < Number(least)) return undefined;
  const meaning = (members ?? alone)?.replace(/\\p\{[LN]\}|\\./g, (escape) => escapes.get(escape)!);
  return meaning === undefined ? undefined : `[${not ?? ""}${meaning}]${times}`;
}

const oneOf = (() => {
  const escape = String.raw`\\s|\\p\{[LN]\}|\\[nrt]`;
  const plain = `[ a-zA-Z0-9_,;:!"'#%=<>@~\u2581]`;
  const members = `(?:${escape}|0-9|a-z|A-Z|${plain})+`;
  const times = String.raw`\+|\{[1-9](?:,[1-9]?)?\}`;
  return new RegExp(`^(?:\\[(\\^?)(${members})\\]|(${escape}|${plain}))(${times})?$`);
})();
