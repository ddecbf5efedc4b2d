/** Strips and tiles of a TIFF: where they lie, unpacked, with predictor and bit order undone. Each is as long as it has to be. */
import { inflateSync } from "node:zlib";
import type { Bytes } from "./bytes.js";
import { lzw } from "./lzw.js";
import { damaged, tooLarge, unsupported } from "./refusal.js";
import type { TiffDirectory } from "./tiff-directory.js";
import { tag, type TiffLayout } from "./tiff-layout.js";

/** Bytes that one strip or tile may have: it lies in memory as a whole. */
const mostBytes = 200_000_000;

export interface Segment {
  /** Its first column and row, and how much of it lies in the picture. */
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  /** Of planes stored apart; 0 otherwise. */
  readonly plane: number;
  /** Samples, row by row. */
  readonly data: Uint8Array;
  /** Bytes from row to row. */
  readonly stride: number;
}

export function* tiffSegments(directory: TiffDirectory, layout: TiffLayout): Generator<Segment, void, void> {
  const { width, height, tiled, planar, samples, bits, segment, compression } = layout;
  const offsets = directory.numbers(tiled ? tag.tileOffsets : tag.stripOffsets);
  const sizes = directory.numbers(tiled ? tag.tileSizes : tag.stripSizes);
  if (offsets === undefined) throw damaged("it does not say where its pixels are");
  if (!(segment.width > 0 && segment.height > 0)) throw damaged("its tiles are empty");
  const across = Math.ceil(width / segment.width);
  const down = Math.ceil(height / segment.height);
  const planes = planar ? samples : 1;
  const needed = across * down * planes;
  // Of plain files Pillow lays parts beyond the picture over the first ones.
  if (offsets.length < needed || (compression === 1 && offsets.length > needed))
    throw damaged(`it has ${offsets.length} parts in place of ${needed}`);
  for (let plane = 0; plane < planes; plane++) {
    for (let i = 0; i < across * down; i++) {
      const x = (i % across) * segment.width;
      const y = Math.floor(i / across) * segment.height;
      const rows = Math.min(segment.height, height - y);
      // Rows of the last strip end with the picture, tiles are always whole.
      const stored = tiled ? segment.height : rows;
      const stride = strideOf(layout, planar ? 1 : samples, bits);
      const size = lengthOf(layout, stride, stored);
      if (size > mostBytes)
        throw tooLarge(
          `one part of it takes ${size} bytes, at most ${mostBytes} are unpacked; save it in strips`,
        );
      const place = plane * across * down + i;
      const packed =
        compression === 1
          ? directory.bytes.slice(offsets[place]!, lastRow(layout, stride, rows, size))
          : packedBytes(directory.bytes, offsets[place]!, sizes?.[place]);
      // The bits of the file are turned, packed or not.
      const data = unpack(layout.lowBitFirst ? packed.map(reversed) : packed, compression, size);
      if (data.length < (compression === 1 ? packed.length : size)) throw damaged("its pixels end too early");
      if (layout.predictor > 1 && compression !== 1)
        undoPrediction(data, layout, planar ? 1 : samples, stride, directory.bytes.littleEndian);
      yield { x, y, plane, data, stride, width: Math.min(segment.width, width - x), height: rows };
    }
  }
}

function strideOf({ segment, subsampling }: TiffLayout, samples: number, bits: number): number {
  const [across, down] = subsampling;
  // A row of units: the luma samples of a block, then its two chroma samples.
  if (across * down > 1) return Math.ceil(segment.width / across) * (across * down + 2);
  return Math.ceil((segment.width * samples * bits) / 8);
}

function lengthOf({ subsampling }: TiffLayout, stride: number, rows: number): number {
  return stride * Math.ceil(rows / subsampling[1]);
}

/** Bytes that are needed: of a tile at the lower edge, the rows inside the picture. */
function lastRow(layout: TiffLayout, stride: number, rows: number, size: number): number {
  return Math.min(size, lengthOf(layout, stride, rows));
}

function packedBytes(bytes: Bytes, offset: number, size: number | undefined): Uint8Array {
  if (size === undefined) throw damaged("it does not say how long its pixels are");
  return bytes.slice(offset, size);
}

function unpack(packed: Uint8Array, compression: number, size: number): Uint8Array {
  if (compression === 1) return packed;
  if (compression === 5) {
    if (packed[0] === 0 && (packed[1] ?? 0) & 1)
      throw unsupported("TIFF with LZW of before 1990 is not read");
    // The first code clears the table.
    if (packed[0] !== 0x80 || (packed[1] ?? 0x80) & 0x80)
      throw damaged("its pixels do not begin as LZW does");
    if (packed.length * 4096 < size) throw damaged("its pixels end too early");
    return lzw(packed, size, { bits: 8, lowBitFirst: false, early: true });
  }
  if (compression === 32773) return packBits(packed, size);
  try {
    // No byte of deflate stands for more than 1,032.
    if (packed.length * 1032 + 1032 < size) throw damaged("its pixels end too early");
    const data = inflateSync(packed, { maxOutputLength: size + 2 ** 16 });
    return new Uint8Array(data.buffer, data.byteOffset, Math.min(size, data.length));
  } catch (error) {
    throw damaged(`its pixels cannot be unpacked: ${(error as Error).message}`);
  }
}

/** TIFF 6.0 section 9: a count, then so many bytes, or one byte to be repeated. */
function packBits(packed: Uint8Array, size: number): Uint8Array {
  if (packed.length * 64 < size) throw damaged("its pixels end too early");
  const out = new Uint8Array(size);
  let to = 0;
  for (let at = 0; at < packed.length && to < size;) {
    const count = packed[at++]!;
    if (count < 128) {
      const part = packed.subarray(at, at + Math.min(count + 1, size - to));
      out.set(part, to);
      to += part.length;
      at += count + 1;
    } else if (count > 128) {
      const length = Math.min(257 - count, size - to);
      out.fill(packed[at++] ?? 0, to, to + length);
      to += length;
    }
  }
  return out.subarray(0, to);
}

function reversed(byte: number): number {
  let turned = 0;
  for (let bit = 0; bit < 8; bit++) turned |= ((byte >> bit) & 1) << (7 - bit);
  return turned;
}

/** Horizontal differences (TIFF 6.0 section 14), or those of floats, whose bytes are sorted by significance (Technical Note 3). */
function undoPrediction(
  data: Uint8Array,
  { predictor, bits }: TiffLayout,
  samples: number,
  stride: number,
  littleEndian: boolean,
): void {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  for (let row = 0; row + stride <= data.length; row += stride) {
    if (predictor === 3) {
      for (let i = samples; i < stride; i++) data[row + i] = data[row + i]! + data[row + i - samples]!;
      const sorted = data.slice(row, row + stride);
      const count = stride / 4;
      for (let i = 0; i < stride; i++) {
        const significance = littleEndian ? 3 - (i % 4) : i % 4;
        data[row + i] = sorted[significance * count + Math.floor(i / 4)]!;
      }
      continue;
    }
    const step = (samples * bits) / 8;
    for (let i = step; i < stride; i += bits / 8) {
      const [at, from] = [row + i, row + i - step];
      if (bits === 8) data[at] = data[at]! + data[from]!;
      else if (bits === 16)
        view.setUint16(
          at,
          view.getUint16(at, littleEndian) + view.getUint16(from, littleEndian),
          littleEndian,
        );
      else
        view.setUint32(
          at,
          view.getUint32(at, littleEndian) + view.getUint32(from, littleEndian),
          littleEndian,
        );
    }
  }
}
