/** Windows icons: the largest of their pictures, of equal ones that with the fewest bits. Its mask is dropped, as all transparency is. */
import type { RgbImage } from "../rgb-image.js";
import { decodeDib } from "./bmp.js";
import { Bytes, latin1 } from "./bytes.js";
import { damaged } from "./refusal.js";
import { decodePng, pngSignature } from "./png.js";

export async function decodeIco(file: Uint8Array, signal: AbortSignal | undefined): Promise<RgbImage> {
  const bytes = new Bytes(file, true);
  const entries = Array.from({ length: bytes.u16(4) }, (_, i) => {
    const at = 6 + i * 16;
    const colours = bytes.u8(at + 2);
    return {
      pixels: (bytes.u8(at) || 256) * (bytes.u8(at + 1) || 256),
      depth: bytes.u16(at + 6) || Math.ceil(Math.log2(colours || 1)) || 256,
      start: bytes.u32(at + 12),
    };
  });
  const [best] = entries.sort((a, b) => b.pixels - a.pixels || a.depth - b.depth);
  if (best === undefined) throw damaged("it holds no picture");
  const { start } = best;
  if (latin1(file.subarray(start, start + 8)) === pngSignature) {
    const { width, height, data } = await decodePng(file.subarray(start), signal);
    return { width, height, data };
  }
  return decodeDib(bytes, start, 0, true);
}
