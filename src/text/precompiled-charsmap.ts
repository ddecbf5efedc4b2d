/**
 * The character replacements that a sentencepiece model brings compiled (its `precompiled_charsmap`, such as nmt_nfkc), applied as the
 * `Precompiled` normaliser of Python's tokenizers applies them.
 *
 * Layout: the length of the trie in bytes (uint32, little endian), the trie (a double array of uint32 units over UTF-8
 * bytes, as the Darts library writes it), and the replacements, each ended by a zero byte.
 */
import { UserError } from "../errors.js";

/** Longer clusters of characters are replaced one character at a time. */
const longestCluster = 6; // bytes, exclusive

/** Published maps have at most 33 bytes for one cluster. */
const longestReplacement = 1000;

/** Clusters whose replacements are remembered. */
const mostKnown = 50_000;

/** Throws `UserError` if the bytes are no such map; `where` names its file. */
export function charsmapNormalizer(bytes: Uint8Array, where: string): (text: string) => string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = bytes.length >= 4 ? view.getUint32(0, true) : 0;
  if (size < 4 || size % 4 !== 0 || 4 + size > bytes.length) {
    throw new UserError(
      `${where}: its charsmap of ${bytes.length} bytes is broken (a trie of ${size} bytes is announced); fetch the file again`,
    );
  }
  const units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
  const replacements = bytes.subarray(4 + size);
  mustBeShort(replacements, where);
  const [encoder, decoder] = [new TextEncoder(), new TextDecoder("utf-8", { ignoreBOM: true })];
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
    if (known.has(text)) return known.get(text);
    if (known.size >= mostKnown) known.clear();
    const found = lookUp(text);
    known.set(text, found);
    return found;
  };

  return (text) => {
    let result = "";
    for (const cluster of graphemeClusters(text)) {
      const whole = encoder.encode(cluster).length < longestCluster ? replacement(cluster) : undefined;
      if (whole !== undefined) result += whole;
      else for (const character of cluster) result += replacement(character) ?? character;
    }
    return result;
  };
}

const segmenter = new Intl.Segmenter("und", { granularity: "grapheme" });
/** In UTF-16 units. */
const window = 256;

/**
 * What readers take for single characters. The segmenter's time grows with the square of a text's length, so it gets a window of the text at a time,
 * of which the last cluster may be cut short and is looked at again.
 */
function* graphemeClusters(text: string): Generator<string> {
  let size = window;
  for (let start = 0; start < text.length;) {
    const isLast = start + size >= text.length;
    let pending: string | undefined;
    const begin = start;
    for (const { segment } of segmenter.segment(text.slice(start, start + size))) {
      if (pending !== undefined) {
        yield pending;
        start += pending.length;
      }
      pending = segment;
    }
    if (isLast) {
      if (pending !== undefined) yield pending;
      return;
    }
    // One cluster fills the window: a longer one is needed to see its end.
    size = start === begin ? size * 2 : window;
  }
}

function mustBeShort(replacements: Uint8Array, where: string): void {
  for (let start = 0; start < replacements.length;) {
    const end = replacements.indexOf(0, start);
    const length = (end < 0 ? replacements.length : end) - start;
    if (length > longestReplacement) {
      throw new UserError(
        `${where}: its charsmap has a replacement of ${length} bytes, at most ${longestReplacement} are read; fetch the file again`,
      );
    }
    start += length + 1;
  }
}

function offset(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
