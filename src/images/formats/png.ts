/**
 * PNG as Pillow reads it. Checksums of pixel data are not compared, and what follows the last row may be missing. Pixels with 16 bits
 * give their upper 8, but grey ones without alpha are cut at 255. Transparency, gamma and profiles change nothing.
 */
import { stopIf } from "../../errors.js";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { constants, crc32, createInflate, inflateSync } from "node:zlib";
import type { RgbImage } from "../rgb-image.js";
import { Bytes, latin1 } from "./bytes.js";
import { checkSize } from "./limits.js";
import type { OrientationSources } from "./orientation.js";
import { damaged, unsupported } from "./refusal.js";

export const pngSignature = "\x89PNG\r\n\x1a\n";

interface Header {
  readonly width: number;
  readonly height: number;
  readonly depth: number;
  readonly colour: number;
  readonly interlaced: boolean;
}

interface Parts {
  readonly header: Header;
  /** 256 colours; those that the file does not give are black. */
  readonly palette: Uint8Array;
  /** Where the first chunk of pixel data begins. */
  readonly data: number;
  readonly orientation: OrientationSources;
}

/** Samples per pixel by colour type. */
const samples: Readonly<Record<number, number>> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const depths: Readonly<Record<number, readonly number[]>> = {
  0: [1, 2, 4, 8, 16],
  2: [8, 16],
  3: [1, 2, 4, 8],
  4: [8, 16],
  6: [8, 16],
};
/** Adam7: first column and row of each pass, and the steps. */
const passes = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;

export async function decodePng(
  file: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<RgbImage & { orientation: OrientationSources }> {
  const parts = readParts(file);
  const { width, height } = parts.header;
  const picture = new Rows(parts);
  const inflate = createInflate({ finishFlush: constants.Z_SYNC_FLUSH, chunkSize: 2 ** 18 });
  const rows = async (pieces: AsyncIterable<Uint8Array>): Promise<void> => {
    for await (const piece of pieces) {
      stopIf(signal);
      if (picture.take(piece)) return;
    }
  };
  try {
    await pipeline(Readable.from(pixelData(file, parts.data)), inflate, rows);
  } catch (error) {
    // What stands behind the last row is no harm, such as a wrong checksum.
    const code = (error as NodeJS.ErrnoException).code ?? "";
    const unpacking = code.startsWith("Z_") || ["ABORT_ERR", "ERR_STREAM_PREMATURE_CLOSE"].includes(code);
    if (!unpacking) throw error;
    if (!picture.complete) throw damaged(`its pixels cannot be unpacked: ${(error as Error).message}`);
  }
  if (!picture.complete) throw damaged("its pixels end too early");
  return { width, height, data: picture.rgb, orientation: parts.orientation };
}

function readParts(file: Uint8Array): Parts {
  const bytes = new Bytes(file, false);
  let header: Header | undefined;
  let colours: Uint8Array | undefined;
  let data: number | undefined;
  // Of two texts with one key the last counts, and only that one is unpacked.
  const texts = new Map<string, () => string>();
  let exif: Uint8Array | undefined;
  let packet: (() => string) | undefined;
  let afterData = false;
  for (let at = 8; at + 8 <= file.length;) {
    const length = bytes.u32(at);
    const name = bytes.text(at + 4, 4);
    if (!/^[A-Za-z]{4}$/.test(name)) {
      if (data !== undefined) break;
      throw damaged("a chunk without a name stands before its pixels");
    }
    if (name === "IDAT") {
      if (header === undefined) throw damaged("its pixels stand before its header");
      data ??= at;
    } else {
      afterData = data !== undefined;
      if (name === "IEND") break;
      const whole = at + 12 + length <= file.length;
      if (!whole && afterData) break;
      const body = bytes.slice(at + 8, length);
      const sound = whole && crc32(file.subarray(at + 4, at + 8 + length)) === bytes.u32(at + 8 + length);
      // The size before the checksum: what is claimed is the better reason.
      if (name === "IHDR" && !afterData) header = readHeader(new Bytes(body, false));
      const text = readText(name, body);
      const used = text !== undefined || ["IHDR", "PLTE", "eXIf"].includes(name);
      if (used && !sound && !afterData) throw damaged(`the checksum of its ${name} is wrong`);
      // Behind the pixels only what turns the picture counts.
      if (name === "PLTE" && !afterData) colours = body;
      else if (name === "eXIf") exif = body;
      else if (name === "fcTL" && header !== undefined && !afterData)
        checkFrame(new Bytes(body, false), header);
      else if (text !== undefined) {
        texts.set(text.key, text.value);
        if (name === "iTXt" && text.key === xmpKey) packet = text.value;
      }
    }
    at += 12 + length;
  }
  if (header === undefined) throw damaged("its header is missing");
  if (data === undefined) throw damaged("it holds no pixels");
  if (header.colour === 3 && colours === undefined) throw damaged("its palette is missing");
  const palette = new Uint8Array(768);
  if (header.colour === 3) palette.set(colours!.subarray(0, 768));
  exif ??= profileText(texts.get("Raw profile type exif")?.());
  return { header, palette, data, orientation: { exif, xmp: texts.get(xmpKey)?.() || packet?.() } };
}

/**
 * The chunks of pixel data that follow one another; Pillow stops at the first other chunk, libpng too. Small ones are joined: there may
 * be millions of a byte each.
 */
function* pixelData(file: Uint8Array, start: number): Generator<Uint8Array, void, void> {
  const bytes = new Bytes(file, false);
  let joined = new Uint8Array(joinedSize);
  let filled = 0;
  for (let at = start; at + 8 <= file.length && bytes.text(at + 4, 4) === "IDAT";) {
    const length = bytes.u32(at);
    const piece = file.subarray(at + 8, at + 8 + length);
    at += 12 + length;
    if (filled > 0 && filled + piece.length > joinedSize) {
      yield joined.subarray(0, filled);
      joined = new Uint8Array(joinedSize);
      filled = 0;
    }
    if (piece.length > joinedSize) yield piece;
    else {
      joined.set(piece, filled);
      filled += piece.length;
    }
  }
  if (filled > 0) yield joined.subarray(0, filled);
}

const joinedSize = 2 ** 16;
const xmpKey = "XML:com.adobe.xmp";
/** Characters of a text that may say how a picture is turned. */
const longestText = 2 ** 24;

function readHeader(bytes: Bytes): Header {
  const [width, height] = [bytes.u32(0), bytes.u32(4)];
  const [depth, colour, compression, filter, interlace] = [8, 9, 10, 11, 12].map((at) => bytes.u8(at));
  if (!depths[colour!]?.includes(depth!))
    throw damaged(`its header says colour type ${colour} with ${depth} bits`);
  if (compression !== 0 || filter !== 0 || interlace! > 1)
    throw unsupported(
      `PNG with compression ${compression}, filter ${filter}, interlace ${interlace} is not read`,
    );
  checkSize(width, height);
  return { width, height, depth: depth!, colour: colour!, interlaced: interlace === 1 };
}

/** Of an animation whose first frame is the picture itself, which then fills it. */
function checkFrame(bytes: Bytes, { width, height }: Header): void {
  if (bytes.u32(4) !== width || bytes.u32(8) !== height)
    throw unsupported("an animated PNG whose first frame is a part of the picture is not read");
}

function readText(name: string, body: Uint8Array): { key: string; value: () => string } | undefined {
  const end = body.indexOf(0);
  if (end < 0 || !["tEXt", "zTXt", "iTXt"].includes(name)) return undefined;
  const key = latin1(body.subarray(0, end));
  if (key !== xmpKey && key !== "Raw profile type exif") return undefined;
  if (body.length > longestText) throw damaged(`its ${key} has ${body.length} bytes`);
  if (name === "tEXt") return { key, value: () => latin1(body.subarray(end + 1)) };
  if (name === "zTXt") return { key, value: () => unpacked(body.subarray(end + 2)) };
  const [compressed, method] = [body[end + 1], body[end + 2]];
  const language = body.indexOf(0, end + 3);
  const keyword = language < 0 ? -1 : body.indexOf(0, language + 1);
  if (keyword < 0) return undefined;
  const text = body.subarray(keyword + 1);
  if (compressed === 0) return { key, value: () => latin1(text) };
  return method === 0 ? { key, value: () => unpacked(text) } : undefined;
}

/** A text may hold a megabyte. */
function unpacked(deflated: Uint8Array): string {
  try {
    return latin1(inflateSync(deflated, { maxOutputLength: 2 ** 20 }));
  } catch {
    return "";
  }
}

/** ImageMagick's form of a profile: three lines of heading, then hexadecimal digits. */
function profileText(text: string | undefined): Uint8Array | undefined {
  const digits = text?.split("\n").slice(3).join("").replace(/\s/g, "");
  if (digits === undefined || !/^(?:[0-9a-fA-F]{2})*$/.test(digits)) return undefined;
  return Buffer.from(digits, "hex");
}

/** Takes unpacked bytes as they come, and undoes the filters row by row. */
class Rows {
  readonly rgb: Uint8Array;
  complete = false;
  private readonly bitsPerPixel: number;
  /** Bytes from a byte to the one that it is predicted from. */
  private readonly reach: number;
  private pass = -1;
  private line = 0;
  private lines = 0;
  private columns = 0;
  private row = new Uint8Array(0);
  private above = new Uint8Array(0);
  private filled = -1;
  private filter = 0;

  constructor(private readonly parts: Parts) {
    const { width, height, depth, colour } = parts.header;
    this.rgb = new Uint8Array(width * height * 3);
    this.bitsPerPixel = depth * samples[colour]!;
    this.reach = Math.max(1, this.bitsPerPixel >> 3);
    this.nextPass();
  }

  private nextPass(): void {
    const { width, height, interlaced } = this.parts.header;
    do {
      this.pass++;
      const [x, y, dx, dy] = interlaced ? (passes[this.pass] ?? [0, 0, 0, 0]) : [0, 0, 1, 1];
      if (dx === 0 || (!interlaced && this.pass > 0)) {
        this.complete = true;
        return;
      }
      this.columns = Math.ceil((width - x) / dx);
      this.lines = Math.ceil((height - y) / dy);
    } while (this.columns <= 0 || this.lines <= 0);
    this.line = 0;
    const size = Math.ceil((this.columns * this.bitsPerPixel) / 8);
    this.row = new Uint8Array(size);
    this.above = new Uint8Array(size);
    this.filled = -1;
  }

  /** Whether the picture is complete. */
  take(piece: Uint8Array): boolean {
    let at = 0;
    while (at < piece.length && !this.complete) {
      if (this.filled < 0) {
        this.filter = piece[at++]!;
        if (this.filter > 4) throw damaged(`a row has the unknown filter ${this.filter}`);
        this.filled = 0;
        continue;
      }
      const size = Math.min(piece.length - at, this.row.length - this.filled);
      this.row.set(piece.subarray(at, at + size), this.filled);
      this.filled += size;
      at += size;
      if (this.filled === this.row.length) this.finishRow();
    }
    return this.complete;
  }

  private finishRow(): void {
    unfilter(this.filter, this.row, this.above, this.reach);
    const { width, interlaced } = this.parts.header;
    const [x, y, dx, dy] = interlaced ? passes[this.pass]! : [0, 0, 1, 1];
    const to = ((y + this.line * dy) * width + x) * 3;
    this.write(to, dx * 3);
    [this.row, this.above] = [this.above, this.row];
    this.filled = -1;
    if (++this.line === this.lines) this.nextPass();
  }

  private write(start: number, step: number): void {
    const { rgb, row, columns } = this;
    const { depth, colour } = this.parts.header;
    let to = start;
    if (colour === 3 || (colour === 0 && depth < 8)) {
      const { palette } = this.parts;
      const mask = (1 << depth) - 1;
      const scale = 255 / mask;
      for (let i = 0; i < columns; i++, to += step) {
        const bit = i * depth;
        const value = (row[bit >> 3]! >> (8 - depth - (bit & 7))) & mask;
        for (let c = 0; c < 3; c++) rgb[to + c] = colour === 3 ? palette[value * 3 + c]! : value * scale;
      }
      return;
    }
    const wide = depth === 16 ? 2 : 1;
    const pixel = samples[colour]! * wide;
    if (colour === 0 || colour === 4) {
      const cut = colour === 0 && wide === 2;
      for (let from = 0; from < row.length; from += pixel, to += step) {
        const value = cut && row[from]! > 0 ? 255 : row[cut ? from + 1 : from]!;
        rgb[to] = rgb[to + 1] = rgb[to + 2] = value;
      }
      return;
    }
    for (let from = 0; from < row.length; from += pixel, to += step) {
      rgb[to] = row[from]!;
      rgb[to + 1] = row[from + wide]!;
      rgb[to + 2] = row[from + 2 * wide]!;
    }
  }
}

/** PNG section 9: each byte is a difference from its left, upper and upper left neighbours. */
function unfilter(filter: number, row: Uint8Array, above: Uint8Array, reach: number): void {
  if (filter === 1) {
    for (let i = reach; i < row.length; i++) row[i] = row[i]! + row[i - reach]!;
  } else if (filter === 2) {
    for (let i = 0; i < row.length; i++) row[i] = row[i]! + above[i]!;
  } else if (filter === 3) {
    for (let i = 0; i < row.length; i++) {
      const left = i < reach ? 0 : row[i - reach]!;
      row[i] = row[i]! + ((left + above[i]!) >> 1);
    }
  } else if (filter === 4) {
    for (let i = 0; i < row.length; i++) {
      const a = i < reach ? 0 : row[i - reach]!;
      const b = above[i]!;
      const c = i < reach ? 0 : above[i - reach]!;
      const pa = Math.abs(b - c);
      const pb = Math.abs(a - c);
      const pc = Math.abs(a + b - 2 * c);
      row[i] = row[i]! + (pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
    }
  }
}
