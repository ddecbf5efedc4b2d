/**
 * BMP of Windows and OS/2, the kinds that Pillow reads: palettes of 1, 4 and 8 bits, plain or run-length coded; 16, 24 and 32 bits with
 * the usual masks; from below or from above. Alpha is dropped.
 */
import type { RgbImage } from "../rgb-image.js";
import { Bytes } from "./bytes.js";
import { checkSize } from "./limits.js";
import { damaged, unsupported } from "./refusal.js";

interface Header {
  readonly width: number;
  readonly height: number;
  readonly bits: number;
  readonly compression: number;
  readonly fromAbove: boolean;
  /** Red, green and blue, where the header gives them. */
  readonly masks: readonly number[];
  readonly palette: Uint8Array;
  readonly pixels: number;
}

const runLength8 = 1;
const runLength4 = 2;
const bitFields = 3;

export function decodeBmp(file: Uint8Array): RgbImage {
  const bytes = new Bytes(file, true);
  return decodeDib(bytes, 14, bytes.u32(10));
}

/**
 * The bitmap whose header stands at `start`.
 * @param offset where the pixels are, or 0 for behind the palette
 * @param icon whether a mask follows that counts into the height
 */
export function decodeDib(bytes: Bytes, start: number, offset = 0, icon = false): RgbImage {
  const header = readHeader(bytes, start, offset, icon);
  const { width, height, bits, compression } = header;
  if (compression === runLength8 || compression === runLength4) {
    if (bits > 8) throw unsupported(`BMP with ${bits} bits in run-length coding is not read`);
    return fromIndices(header, 8, width, runs(bytes, header));
  }
  const stride = ((width * bits + 31) >> 5) * 4;
  const size = stride * (height - 1) + Math.ceil((width * bits) / 8);
  const pixels = bytes.slice(header.pixels, size);
  if (bits <= 8) return fromIndices(header, bits, stride, pixels);
  return fromColours(header, stride, pixels);
}

function readHeader(bytes: Bytes, start: number, given: number, icon: boolean): Header {
  const size = bytes.u32(start);
  if (![12, 40, 52, 56, 64, 108, 124].includes(size))
    throw unsupported(`BMP with a header of ${size} bytes is not read`);
  const core = size === 12;
  const width = core ? bytes.u16(start + 4) : bytes.u32(start + 4);
  let height = core ? bytes.u16(start + 6) : bytes.u32(start + 8);
  const fromAbove = !core && height >= 0xff000000;
  if (fromAbove) height = 2 ** 32 - height;
  if (icon) height = Math.floor(height / 2);
  const bits = bytes.u16(start + (core ? 10 : 14));
  const compression = core ? 0 : bytes.u32(start + 16);
  if (![1, 4, 8, 16, 24, 32].includes(bits)) throw unsupported(`BMP with ${bits} bits is not read`);
  if (compression > bitFields) throw unsupported(`BMP with compression ${compression} is not read`);
  checkSize(width, height);

  let at = start + size;
  const masks: number[] = [];
  if (compression === bitFields) {
    if (bits < 16) throw unsupported(`BMP with ${bits} bits and masks is not read`);
    const from = size >= 52 ? start + 40 : at;
    for (let i = 0; i < 3; i++) masks.push(bytes.u32(from + 4 * i));
    if (size < 52) at += 12;
  }
  const entry = core ? 3 : 4;
  const palette = new Uint8Array(768);
  let pixels = given;
  if (bits <= 8) {
    const entries = (core ? 0 : bytes.u32(start + 32)) || 1 << bits;
    if (entries > 256) throw unsupported(`BMP with a palette of ${entries} colours is not read`);
    const colours = bytes.slice(at, entry * entries);
    for (let i = 0; i < entries; i++) {
      for (let c = 0; c < 3; c++) palette[i * 3 + c] = colours[i * entry + 2 - c]!;
    }
    at += entry * entries;
    if (given === start + size) pixels = at;
  }
  return { width, height, bits, compression, fromAbove, masks, palette, pixels: pixels || at };
}

function fromIndices(header: Header, bits: number, stride: number, pixels: Uint8Array): RgbImage {
  const { width, height, palette } = header;
  const data = new Uint8Array(width * height * 3);
  const mask = (1 << bits) - 1;
  for (let y = 0, to = 0; y < height; y++) {
    const row = (header.fromAbove ? y : height - 1 - y) * stride;
    for (let x = 0; x < width; x++) {
      const bit = x * bits;
      const colour = ((pixels[row + (bit >> 3)]! >> (8 - bits - (bit & 7))) & mask) * 3;
      data[to++] = palette[colour]!;
      data[to++] = palette[colour + 1]!;
      data[to++] = palette[colour + 2]!;
    }
  }
  return { width, height, data };
}

/** Where each of red, green and blue lies in a pixel: its lowest bit and its largest value. */
function channels({ bits, masks }: Header): (readonly [shift: number, most: number])[] {
  const given = masks.map((mask) => mask.toString(16)).join(" ");
  if (bits === 16 && given === "f800 7e0 1f") {
    return [[11, 31], [5, 63], [0, 31]]; // prettier-ignore
  }
  if (bits === 16 && (given === "" || given === "7c00 3e0 1f")) {
    return [[10, 31], [5, 31], [0, 31]]; // prettier-ignore
  }
  const usual = ["", "ff0000 ff00 ff", ...(bits === 32 ? ["0 0 0"] : [])];
  if (usual.includes(given)) return [[16, 255], [8, 255], [0, 255]]; // prettier-ignore
  const others = ["ff000000 ff0000 ff00", "ff000000 ff00 ff", "ff ff00 ff0000"];
  if (bits !== 32 || !others.includes(given))
    throw unsupported(`BMP with ${bits} bits and the masks ${given} is not read`);
  return masks.map((mask) => [31 - Math.clz32(mask & -mask), 255] as const);
}

function fromColours(header: Header, stride: number, pixels: Uint8Array): RgbImage {
  const { width, height, bits } = header;
  const places = channels(header);
  const data = new Uint8Array(width * height * 3);
  const step = bits / 8;
  for (let y = 0, to = 0; y < height; y++) {
    let from = (header.fromAbove ? y : height - 1 - y) * stride;
    for (let x = 0; x < width; x++, from += step) {
      if (step === 2) {
        const pixel = pixels[from]! | (pixels[from + 1]! << 8);
        for (const [shift, most] of places) data[to++] = Math.floor((((pixel >> shift) & most) * 255) / most);
      } else {
        for (const [shift] of places) data[to++] = pixels[from + (shift >> 3)]!;
      }
    }
  }
  return { width, height, data };
}

/** One index a byte. The file has to fill the picture: what is left out of it is damage to Pillow too. */
function runs(bytes: Bytes, { width, height, compression, pixels }: Header): Uint8Array {
  const four = compression === runLength4;
  const size = width * height;
  // A pair of bytes stands for 255 pixels, four bytes for a leap over 255 rows.
  if ((bytes.length - pixels) * 64 * (width + 255) < size) throw damaged("its pixels end too early");
  const indices = new Uint8Array(size);
  let at = pixels;
  let to = 0;
  let x = 0;
  while (to < size && at + 2 <= bytes.length) {
    const [count, value] = [bytes.u8(at), bytes.u8(at + 1)];
    at += 2;
    if (count > 0) {
      // A run ends with its row.
      const length = Math.min(count, Math.max(0, width - x));
      for (let i = 0; i < length && to < size; i++) {
        indices[to++] = !four ? value : i % 2 === 0 ? value >> 4 : value & 15;
      }
      x += length;
    } else if (value === 0) {
      to += (width - (to % width)) % width;
      x = 0;
    } else if (value === 1) break;
    else if (value === 2) {
      if (at + 2 > bytes.length) break;
      to = Math.min(size, to + bytes.u8(at) + bytes.u8(at + 1) * width);
      at += 2;
      x = to % width;
    } else {
      const length = Math.min(size - to, value);
      const stored = bytes.slice(at, four ? (length + 1) >> 1 : length);
      for (let i = 0; i < length; i++) {
        const byte = stored[four ? i >> 1 : i]!;
        indices[to++] = !four ? byte : i % 2 === 0 ? byte >> 4 : byte & 15;
      }
      at += stored.length;
      // Each stretch begins at an even place of the file.
      at += at % 2;
      x += value;
    }
  }
  if (to < size) throw damaged("its pixels end too early");
  return indices;
}
