/** Operations on characters as Python's tokenizers does them. */
import { modern } from "./unicode-classes.js";

export type NormalForm = "NFC" | "NFD" | "NFKC" | "NFKD";

const modernCharacter = new RegExp(`([${modern}])`, "u");

/** As the normal forms of Unicode 9: younger characters stay, and what stands on both sides of one is not joined. */
export function normalForm(text: string, form: NormalForm): string {
  const ordered = text.replace(longRunOfMarks, inOrder);
  if (!modernCharacter.test(ordered)) return ordered.normalize(form);
  return ordered
    .split(modernCharacter)
    .map((part, i) => (i % 2 === 0 ? part.normalize(form) : part))
    .join("");
}

/** The time that JavaScript takes to bring marks into order grows with the square of their number. */
const longRunOfMarks = /\p{M}{64,}/gu;

/** The same marks, decomposed, in the order that normal forms have. */
function inOrder(run: string): string {
  const marks = Array.from(run, (mark) => (modernCharacter.test(mark) ? mark : mark.normalize("NFD"))).join(
    "",
  );
  const classes = combiningClasses(new Set(marks));
  let result = "";
  let waiting: string[][] = [];
  const settle = (): void => {
    result += waiting.flat().join("");
    waiting = [];
  };
  for (const mark of marks) {
    const place = classes.get(mark);
    if (place === undefined) {
      settle();
      result += mark;
    } else (waiting[place] ??= []).push(mark);
  }
  settle();
  return result;
}

/** By character the rank of its combining class, which JavaScript shows only by what it reorders. What is never moved has none. */
function combiningClasses(characters: ReadonlySet<string>): Map<string, number> {
  const moves = (first: string, second: string): boolean =>
    (first + second).normalize("NFD") !== first + second;
  // Of the largest class and of the smallest.
  const moved = [...characters].filter(
    (mark) =>
      !modernCharacter.test(mark) &&
      (mark === "\u0345" || mark === "\u0334" || moves("\u0345", mark) || moves(mark, "\u0334")),
  );
  const compare = (a: string, b: string): number => (moves(a, b) ? 1 : moves(b, a) ? -1 : 0);
  moved.sort(compare);
  let rank = 0;
  return new Map(
    moved.map((mark, i) => {
      if (i > 0 && compare(moved[i - 1]!, mark) !== 0) rank++;
      return [mark, rank];
    }),
  );
}

/** Every character by itself: no sigma is taken for the last letter of a word. */
export function lowerCase(text: string): string {
  return text.replaceAll("\u03a3", "\u03c3").toLowerCase();
}

/** Unpaired surrogates, which no other language's strings have, become U+FFFD, as in UTF-8. */
export function wellFormed(text: string): string {
  return text.replace(/\p{Cs}/gu, "\ufffd");
}

/** Number of characters, not UTF-16 units. */
export function characterCount(text: string): number {
  let count = text.length;
  for (let i = 0; i < text.length; i++) if ((text.charCodeAt(i) & 0xfc00) === 0xdc00) count--;
  return count;
}

/** Two for a character beyond U+FFFF. */
export function widthAt(text: string, place: number): 1 | 2 {
  return (text.charCodeAt(place) & 0xfc00) === 0xd800 ? 2 : 1;
}
