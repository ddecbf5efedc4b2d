/** GPT-2's printable stand-ins for bytes, and its rule for cutting text into pieces. */
import { gpt2Rule } from "./patterns.js";

/** The stand-in of each byte: printable Latin-1 characters stand for themselves, the others for U+0100 and up, in order. */
const standIn: readonly string[] = (() => {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
})();

const byteOf: ReadonlyMap<string, number> = new Map(standIn.map((character, byte) => [character, byte]));

/** The 256 stand-ins in GPT-2's order: those that stand for themselves first. */
export const byteAlphabet: readonly string[] = [...standIn].sort();

const encoder = new TextEncoder();

/** The bytes of `text` as their stand-ins. */
export function byteText(text: string): string {
  let result = "";
  for (const byte of encoder.encode(text)) result += standIn[byte];
  return result;
}

/** The bytes that the characters of `token` stand for, or its own where one of them stands for none. */
export function bytesOf(token: string): Iterable<number> {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = byteOf.get(character);
    if (byte === undefined) return encoder.encode(token);
    bytes.push(byte);
  }
  return bytes;
}

/**
 * The pieces of `text` that byte-level BPE merges within, in stand-in characters, as with `add_prefix_space`: words, numbers and runs of marks, each with one
 * space before it (U+0120) where there is one, and white space.
 */
export function bytePieces(text: string): string[] {
  const prefixed = text.startsWith(" ") ? text : ` ${text}`;
  return (prefixed.match(new RegExp(gpt2Rule, "gu")) ?? []).map(byteText);
}
