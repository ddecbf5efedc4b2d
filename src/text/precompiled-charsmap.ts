/**
 * The character replacements that a sentencepiece model brings compiled (its `precompiled_charsmap`, such as nmt_nfkc), applied as the
 * `Precompiled` normaliser of Python's tokenizers applies them. The library for tokenizers that is used here replaces the map by an
 * approximation of NFKC of its own.
 *
 * Layout: the length of the trie in bytes (uint32, little endian), the trie (a double array of uint32 units over UTF-8
 * bytes, as the Darts library writes it), and the replacements, each ended by a zero byte.
 */
import { UserError } from "../errors.js";

export type Normalize = (text: string) => string;

/** Longer clusters of characters are replaced one character at a time. */
const longestCluster = 6; // bytes, exclusive

/** Throws `UserError` if the bytes are no such map; `where` names its file. */
export function charsmapNormalizer(bytes: Uint8Array, where: string): Normalize {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = bytes.length >= 4 ? view.getUint32(0, true) : 0;
  if (size < 4 || size % 4 !== 0 || 4 + size > bytes.length) {
    throw new UserError(
      `${where}: its charsmap of ${bytes.length} bytes is broken (a trie of ${size} bytes is announced); fetch the file again`,
    );
  }
  const units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
  const replacements = bytes.subarray(4 + size);
  const [encoder, decoder] = [new TextEncoder(), new TextDecoder("utf-8", { ignoreBOM: true })];
  const clusters = new Intl.Segmenter("und", { granularity: "grapheme" });
  const known = new Map<string, string | undefined>();

  /** What the shortest beginning of `text` that the trie holds is replaced by. */
  const lookUp = (text: string): string | undefined => {
    let place = offset(units[0]!);
    for (const byte of encoder.encode(text)) {
      if (byte === 0) break;
      place ^= byte;
      const unit = units[place];
      // The label sits in the low byte; bit 31 marks units that are values.
      if (unit === undefined || (unit & 0x800000ff) !== byte) return undefined;
      place ^= offset(unit);
      if ((unit & 0x100) === 0) continue;
      const start = (units[place] ?? 0) & 0x7fffffff;
      const end = replacements.indexOf(0, start);
      return decoder.decode(replacements.subarray(start, end < 0 ? undefined : end));
    }
    return undefined;
  };
  const replacement = (text: string): string | undefined => {
    if (!known.has(text)) known.set(text, lookUp(text));
    return known.get(text);
  };

  return (text) => {
    let result = "";
    for (const { segment } of clusters.segment(text)) {
      const whole = encoder.encode(segment).length < longestCluster ? replacement(segment) : undefined;
      if (whole !== undefined) result += whole;
      else for (const character of segment) result += replacement(character) ?? character;
    }
    return result;
  };
}

function offset(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
