/** GPT-2's printable stand-ins for bytes, and its rule for cutting text into pieces. */

/** The stand-in of each byte: printable Latin-1 characters stand for themselves, the others for U+0100 and up, in order. */
const standIn: readonly string[] = (() => {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
})();

/** The 256 stand-ins in GPT-2's order: those that stand for themselves first. */
export const byteAlphabet: readonly string[] = [...standIn].sort();

/**
 * The pieces of `text` that byte-level BPE merges within, in stand-in characters, as with `add_prefix_space`: words, numbers and runs of marks, each with one
 * space before it (U+0120) where there is one, and white space.
 */
export function bytePieces(text: string): string[] {
  const pattern = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
  const prefixed = text.startsWith(" ") ? text : ` ${text}`;
  const encoder = new TextEncoder();
  return (prefixed.match(pattern) ?? []).map((piece) =>
    Array.from(encoder.encode(piece), (byte) => standIn[byte]!).join(""),
  );
}
