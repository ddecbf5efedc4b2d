/** Small encoders of picture files, each from known pixels, written from the formats' descriptions and not from our decoders. */
import { crc32, deflateSync } from "node:zlib";
import type { RgbImage } from "../../src/images/rgb-image.js";

const u16 = (...values: number[]): Buffer =>
  Buffer.concat(values.map((value) => Buffer.from([value & 255, value >> 8])));
const u32 = (...values: number[]): Buffer =>
  Buffer.concat(values.map((value) => Buffer.from(Uint32Array.of(value).buffer)));

/** Rows of red, green and blue. */
function rows({ width, height, data }: RgbImage): Buffer[] {
  return Array.from({ length: height }, (_, y) =>
    Buffer.from(data.subarray(y * width * 3, (y + 1) * width * 3)),
  );
}

const turned = (row: Buffer): Buffer => {
  const swapped = Buffer.from(row);
  for (let i = 0; i < row.length; i += 3) [swapped[i], swapped[i + 2]] = [row[i + 2]!, row[i]!];
  return swapped;
};

/** 24 bits; rows from below, or from above. */
export function bmp(image: RgbImage, fromAbove = false): Buffer {
  const { width, height } = image;
  const stored = rows(image).map((row) =>
    Buffer.concat([turned(row), Buffer.alloc((4 - (row.length % 4)) % 4)]),
  );
  if (!fromAbove) stored.reverse();
  const head = Buffer.concat([
    u32(40, width, fromAbove ? -height : height),
    u16(1, 24),
    u32(0, 0, 0, 0, 0, 0),
  ]);
  return Buffer.concat([Buffer.from("BM"), u32(0, 0, 54), head, ...stored]);
}

/** PPM in digits or in bytes. */
export function ppm(image: RgbImage, plain = false): Buffer {
  const head = `${plain ? "P3" : "P6"}\n# made here\n${image.width} ${image.height}\n255\n`;
  return Buffer.concat([
    Buffer.from(head),
    plain ? Buffer.from(image.data.join(" ")) : Buffer.from(image.data),
  ]);
}

/** The PNG filter of each row is its number modulo 5; pixel data is cut into small chunks. */
export function png(image: RgbImage, extra: Buffer = Buffer.alloc(0)): Buffer {
  let above: Buffer = Buffer.alloc(image.width * 3);
  const filtered = rows(image).map((row, y) => {
    const kind = y % 5;
    const out = Buffer.alloc(row.length + 1);
    out[0] = kind;
    for (let i = 0; i < row.length; i++) {
      const left = i < 3 ? 0 : row[i - 3]!;
      const up = above[i]!;
      const corner = i < 3 ? 0 : above[i - 3]!;
      const estimate = left + up - corner;
      const nearest = [left, up, corner].reduce((best, value) =>
        Math.abs(estimate - value) < Math.abs(estimate - best) ? value : best,
      );
      out[i + 1] = row[i]! - [0, left, up, (left + up) >> 1, nearest][kind]!;
    }
    above = row;
    return out;
  });
  const packed = deflateSync(Buffer.concat(filtered));
  const pieces = Array.from({ length: Math.ceil(packed.length / 50) }, (_, i) =>
    packed.subarray(i * 50, i * 50 + 50),
  );
  const header = Buffer.alloc(13);
  header.writeUInt32BE(image.width, 0);
  header.writeUInt32BE(image.height, 4);
  header.set([8, 2], 8);
  return Buffer.concat([
    Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
    pngChunk("IHDR", header),
    extra,
    ...pieces.map((piece) => pngChunk("IDAT", piece)),
    pngChunk("IEND", Buffer.alloc(0)),
  ]);
}

export function pngChunk(name: string, body: Uint8Array): Buffer {
  const named = Buffer.concat([Buffer.from(name), body]);
  const [size, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  size.writeUInt32BE(body.length);
  sum.writeUInt32BE(crc32(named));
  return Buffer.concat([size, named, sum]);
}

/** Of at most 256 colours, without strings: every index has a code of 9 bits, and the table is cleared before codes grow. */
export function gif({ width, height, data }: RgbImage): Buffer {
  const colours: number[] = [];
  const indices: number[] = [];
  for (let i = 0; i < data.length; i += 3) {
    const colour = (data[i]! << 16) | (data[i + 1]! << 8) | data[i + 2]!;
    if (!colours.includes(colour)) colours.push(colour);
    indices.push(colours.indexOf(colour));
  }
  const palette = Buffer.alloc(768);
  colours.forEach((colour, i) => palette.set([colour >> 16, (colour >> 8) & 255, colour & 255], i * 3));
  const codes = indices.flatMap((index, i) => (i % 200 === 0 ? [256, index] : [index]));
  const bits = [...codes, 257].flatMap((code) => Array.from({ length: 9 }, (_, bit) => (code >> bit) & 1));
  const packed = Buffer.alloc(Math.ceil(bits.length / 8));
  bits.forEach((bit, i) => (packed[i >> 3]! |= bit << (i & 7)));
  const blocks: Buffer[] = [];
  for (let at = 0; at < packed.length; at += 255) {
    const block = packed.subarray(at, at + 255);
    blocks.push(Buffer.from([block.length]), block);
  }
  return Buffer.concat([
    Buffer.from("GIF89a"),
    u16(width, height),
    Buffer.from([0xf7, 0, 0]),
    palette,
    Buffer.from([0x2c, 0, 0, 0, 0]),
    u16(width, height),
    Buffer.from([0, 8]),
    ...blocks,
    Buffer.from([0, 0x3b]),
  ]);
}

export interface TiffForm {
  /** Side of the tiles, which has to be a multiple of 16; strips of five rows if not given. */
  readonly tile?: number | undefined;
  readonly deflate: boolean;
  readonly differences: boolean;
  readonly planes: boolean;
}

/** RGB with 8 bits, low byte first. */
export function tiff(
  { width, height, data }: RgbImage,
  { tile, deflate, differences, planes }: TiffForm,
): Buffer {
  const [across, down] = tile === undefined ? [width, 5] : [tile, tile];
  const segments: Buffer[] = [];
  for (const channels of planes ? [[0], [1], [2]] : [[0, 1, 2]]) {
    for (let y = 0; y < height; y += down) {
      for (let x = 0; x < width; x += across) {
        const lines = tile === undefined ? Math.min(down, height - y) : down;
        const segment = Buffer.alloc(lines * across * channels.length);
        const at = (row: number, column: number, channel: number): number =>
          y + row < height && x + column < width ? data[((y + row) * width + x + column) * 3 + channel]! : 0;
        let to = 0;
        for (let row = 0; row < lines; row++) {
          for (let column = 0; column < across; column++) {
            for (const channel of channels) {
              const before = differences && column > 0 ? at(row, column - 1, channel) : 0;
              segment[to++] = at(row, column, channel) - before;
            }
          }
        }
        segments.push(deflate ? deflateSync(segment) : segment);
      }
    }
  }
  const offsets: number[] = [];
  let end = 8;
  for (const segment of segments) {
    offsets.push(end);
    end += segment.length;
  }
  const sizes = segments.map((segment) => segment.length);
  const tags: [number, number[]][] = [
    [256, [width]],
    [257, [height]],
    [258, [8, 8, 8]],
    [259, [deflate ? 8 : 1]],
    [262, [2]],
    ...(tile === undefined ? ([[273, offsets]] as [number, number[]][]) : []),
    [277, [3]],
    ...(tile === undefined
      ? ([
          [278, [down]],
          [279, sizes],
        ] as [number, number[]][])
      : []),
    [284, [planes ? 2 : 1]],
    [317, [differences ? 2 : 1]],
    ...(tile === undefined
      ? []
      : ([
          [322, [tile]],
          [323, [tile]],
          [324, offsets],
          [325, sizes],
        ] as [number, number[]][])),
  ];
  const behind = end + 2 + 12 * tags.length + 4;
  const extra: number[] = [];
  const entries = tags.map(([tag, values]) => {
    const where = values.length === 1 ? values[0]! : behind + 4 * extra.length;
    if (values.length > 1) extra.push(...values);
    return Buffer.concat([u16(tag, 4), u32(values.length, where)]);
  });
  return Buffer.concat([
    Buffer.from("II*\0"),
    u32(end),
    ...segments,
    u16(tags.length),
    ...entries,
    u32(0, ...extra),
  ]);
}
