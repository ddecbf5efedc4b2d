/** LZW: codes for strings seen before, growing from `codeBits` to 12 bits. GIF packs them from the low bit, TIFF from the high one. */
import { damaged } from "./refusal.js";

interface LzwOptions {
  /** Bits of one symbol: 2^bits symbols, then the codes for "clear" and "end". */
  readonly bits: number;
  readonly lowBitFirst: boolean;
  /** TIFF widens its codes one code early. */
  readonly early: boolean;
}

/** At most `size` bytes. What ends early gives fewer; a code that cannot occur is damage. */
export function lzw(packed: Uint8Array, size: number, { bits, lowBitFirst, early }: LzwOptions): Uint8Array {
  const clear = 1 << bits;
  const end = clear + 1;
  const prefix = new Uint16Array(4096);
  const suffix = new Uint8Array(4096);
  const lengths = new Uint16Array(4096);
  for (let i = 0; i < clear; i++) [suffix[i], lengths[i]] = [i, 1];
  const out = new Uint8Array(size);
  let at = 0;
  let next = end + 1;
  let width = bits + 1;
  let previous = -1;
  let held = 0;
  let heldBits = 0;
  for (let from = 0; at < size;) {
    while (heldBits < width && from < packed.length) {
      held = lowBitFirst ? held | (packed[from++]! << heldBits) : ((held << 8) | packed[from++]!) & 0xfffffff;
      heldBits += 8;
    }
    if (heldBits < width) break;
    heldBits -= width;
    const mask = (1 << width) - 1;
    const code = lowBitFirst ? held & mask : (held >> heldBits) & mask;
    if (lowBitFirst) held >>>= width;
    if (code === end) break;
    if (code === clear) {
      next = end + 1;
      width = bits + 1;
      previous = -1;
      continue;
    }
    const fresh = code === next && previous >= 0;
    if (!fresh && (code > end ? code >= next : code >= clear))
      throw damaged("its pixels hold an impossible code");
    if (previous < 0 && code >= clear) throw damaged("its pixels begin with an impossible code");
    const known = fresh ? previous : code;
    const length = lengths[known]!;
    // Written from its end; what does not fit any more is left out.
    let walk = known;
    for (let i = at + length - 1; i >= at; i--) {
      if (i < size) out[i] = suffix[walk]!;
      walk = prefix[walk]!;
    }
    const first = out[at]!;
    at += length;
    if (fresh && at < size) out[at] = first;
    if (fresh) at++;
    if (previous >= 0 && next < 4096) {
      prefix[next] = previous;
      suffix[next] = first;
      lengths[next] = lengths[previous]! + 1;
      next++;
    }
    if (next + (early ? 1 : 0) >= 1 << width && width < 12) width++;
    previous = code;
  }
  return out.subarray(0, Math.min(at, size));
}
