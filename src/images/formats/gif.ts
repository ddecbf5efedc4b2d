/**
 * The first frame of a GIF as Pillow reads it: transparent pixels keep the colour that the palette gives them, and what the frame
 * leaves free of the canvas has the transparent index, or index 0.
 */
import type { RgbImage } from "../rgb-image.js";
import { Bytes } from "./bytes.js";
import { checkSize } from "./limits.js";
import { lzw } from "./lzw.js";
import { damaged } from "./refusal.js";

export function decodeGif(file: Uint8Array): RgbImage {
  const bytes = new Bytes(file, true);
  let [width, height] = [bytes.u16(6), bytes.u16(8)];
  const screen = bytes.u8(10);
  let at = 13;
  let palette: Uint8Array | undefined;
  const readPalette = (flags: number): void => {
    if ((flags & 128) === 0) return;
    const size = 3 << ((flags & 7) + 1);
    const colours = bytes.slice(at, size);
    at += size;
    // Pillow takes a palette of just the shades of grey for none, also beside another one.
    if (!colours.every((value, i) => value === Math.floor(i / 3))) palette = colours;
  };
  readPalette(screen);
  let transparent: number | undefined;
  const skipBlocks = (): void => {
    for (let size = bytes.u8(at++); size > 0; size = bytes.u8(at++)) at += size;
  };
  for (;;) {
    const mark = bytes.u8(at++);
    if (mark === 0x3b) throw damaged("it holds no frame");
    if (mark === 0x21) {
      const label = bytes.u8(at++);
      // Graphic control extension: of several, the last that names an index.
      if (label === 0xf9 && bytes.u8(at) >= 4 && (bytes.u8(at + 1) & 1) === 1) transparent = bytes.u8(at + 4);
      skipBlocks();
    } else if (mark === 0x2c) break;
  }
  const [left, top, frameWidth, frameHeight] = [0, 2, 4, 6].map((offset) => bytes.u16(at + offset)) as Four;
  const flags = bytes.u8(at + 8);
  at += 9;
  readPalette(flags);
  // A frame that reaches beyond the canvas widens it.
  width = Math.max(width, left + frameWidth);
  height = Math.max(height, top + frameHeight);
  checkSize(width, height);
  if (frameWidth === 0 || frameHeight === 0) throw damaged("its frame is empty");
  const bits = bytes.u8(at++);
  if (bits < 1 || bits > 11) throw damaged(`its codes begin with ${bits} bits`);
  const packed = joinBlocks(bytes, at);
  const size = frameWidth * frameHeight;
  // A code stands for 4,096 pixels at most: a short file that claims a large picture is told before memory is taken.
  if (size > packed.length * 8 * 4096) throw damaged("its pixels end too early");
  const indices = lzw(packed, size, { bits, lowBitFirst: true, early: false });
  if (indices.length < size) throw damaged("its pixels end too early");

  const colours = coloursOf(palette);
  const data = new Uint8Array(width * height * 3);
  if (frameWidth < width || frameHeight < height) {
    const free = (transparent ?? 0) * 3;
    for (let to = 0; to < data.length; to += 3) data.set(colours.subarray(free, free + 3), to);
  }
  const rows = (flags & 64) === 0 ? undefined : interlacedRows(frameHeight);
  for (let y = 0, from = 0; y < frameHeight; y++) {
    let to = ((top + (rows === undefined ? y : rows[y]!)) * width + left) * 3;
    for (let x = 0; x < frameWidth; x++) {
      const colour = indices[from++]! * 3;
      data[to++] = colours[colour]!;
      data[to++] = colours[colour + 1]!;
      data[to++] = colours[colour + 2]!;
    }
  }
  return { width, height, data };
}

type Four = [number, number, number, number];

/** The sub-blocks in one piece, as far as the file goes. */
function joinBlocks(bytes: Bytes, start: number): Uint8Array {
  const joined = new Uint8Array(bytes.length - start);
  let length = 0;
  for (let at = start; at < bytes.length;) {
    const size = bytes.u8(at++);
    if (size === 0) break;
    const block = bytes.data.subarray(at, at + size);
    joined.set(block, length);
    length += block.length;
    at += size;
  }
  return joined.subarray(0, length);
}

/** Without a palette an index is a shade of grey. */
function coloursOf(palette: Uint8Array | undefined): Uint8Array {
  const colours = new Uint8Array(768);
  if (palette === undefined) for (let i = 0; i < 768; i++) colours[i] = Math.floor(i / 3);
  else colours.set(palette);
  return colours;
}

/** Where the rows of the file go: every eighth, the ones between, and so on. */
function interlacedRows(height: number): number[] {
  const rows: number[] = [];
  for (const [first, step] of [
    [0, 8],
    [4, 8],
    [2, 4],
    [1, 2],
  ] as const) {
    for (let y = first; y < height; y += step) rows.push(y);
  }
  return rows;
}
