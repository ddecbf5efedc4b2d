/** Operations on characters as Python's tokenizers does them. */
import { modern } from "./unicode-classes.js";

export type NormalForm = "NFC" | "NFD" | "NFKC" | "NFKD";

const modernCharacter = new RegExp(`([${modern}])`, "u");

/** As the normal forms of Unicode 9: younger characters stay, and what stands on both sides of one is not joined. */
export function normalForm(text: string, form: NormalForm): string {
  if (!modernCharacter.test(text)) return text.normalize(form);
  return text
    .split(modernCharacter)
    .map((part, i) => (i % 2 === 0 ? part.normalize(form) : part))
    .join("");
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
