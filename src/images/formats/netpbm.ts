/** PBM, PGM, PPM and grey PFM, the kinds of Netpbm that Pillow reads. Grey of more than 8 bits and floats are cut at 255. */
import type { RgbImage } from "../rgb-image.js";
import { Bytes, latin1 } from "./bytes.js";
import { checkSize, type Turns } from "./limits.js";
import { damaged, unsupported } from "./refusal.js";

/** What Python takes for a blank. */
const isBlank = (byte: number | undefined): boolean =>
  byte === 32 || (byte !== undefined && byte >= 9 && byte <= 13);

export async function decodeNetpbm(file: Uint8Array, turns: Turns): Promise<RgbImage> {
  const kind = latin1(file.subarray(0, 2));
  if (kind === "P7" || kind === "PF")
    throw unsupported(`${kind === "P7" ? "PAM" : "PFM in colour"} is not read`);
  const words = new Words(file, 3);
  const [width, height] = [words.number(), words.number()];
  checkSize(width, height);
  if (kind === "P1") return plainBits(file, words.at, width, height);
  if (kind === "P4") return bits(new Bytes(file, false), words.at, width, height);
  if (kind === "Pf") return floats(file, words, width, height);
  const most = words.number();
  if (!(most > 0 && most < 65536)) throw damaged(`its largest value is ${most}`);
  const colour = kind === "P3" || kind === "P6";
  const count = width * height * (colour ? 3 : 1);
  const plain = kind === "P2" || kind === "P3";
  if (plain && (file.length - words.at + 1) / 2 < count) throw damaged("its values end too early");
  const value = plain
    ? plainValues(file, words.at, most)
    : binaryValues(new Bytes(file, false), words.at, most, count);
  const data = new Uint8Array(width * height * 3);
  // Grey of more than 255 values is brought to 65,535, and then cut.
  const scale = !colour && most > 255 ? 65535 : 255;
  const step = colour ? 1 : 3;
  for (let i = 0; i < count; i++) {
    if (i % 65536 === 0) await turns.next();
    const byte = Math.min(255, roundHalfEven((value() / most) * scale));
    for (let c = 0; c < step; c++) data[i * step + c] = byte;
  }
  return { width, height, data };
}

function binaryValues(bytes: Bytes, start: number, most: number, count: number): () => number {
  const size = most > 255 ? 2 : 1;
  bytes.slice(start, count * size);
  let at = start - size;
  return () => ((at += size), size === 1 ? bytes.u8(at) : bytes.u16(at));
}

function plainValues(file: Uint8Array, start: number, most: number): () => number {
  const words = new Words(file, start, true);
  return () => {
    const value = words.number();
    if (value > most) throw damaged(`it holds ${value}, its largest value is ${most}`);
    return value;
  };
}

function plainBits(file: Uint8Array, start: number, width: number, height: number): RgbImage {
  if (file.length - start < width * height) throw damaged("its values end too early");
  const data = new Uint8Array(width * height * 3);
  let to = 0;
  for (let at = start; to < data.length; at++) {
    const digit = file[at];
    if (digit === undefined) throw damaged("its values end too early");
    if (digit === 0x23) at = lineEnd(file, at);
    else if (digit === 0x30 || digit === 0x31) {
      data.fill(digit === 0x30 ? 255 : 0, to, to + 3);
      to += 3;
    } else if (!isBlank(digit)) throw damaged("it holds something other than 0 and 1");
  }
  return { width, height, data };
}

/** 1 is black. */
function bits(bytes: Bytes, start: number, width: number, height: number): RgbImage {
  const stride = Math.ceil(width / 8);
  const packed = bytes.slice(start, stride * height);
  const data = new Uint8Array(width * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const bit = (packed[y * stride + (x >> 3)]! >> (7 - (x & 7))) & 1;
      if (bit === 0) data.fill(255, to, to + 3);
    }
  }
  return { width, height, data };
}

/** Rows from below. The scale's sign gives the byte order, its size changes nothing. */
function floats(file: Uint8Array, words: Words, width: number, height: number): RgbImage {
  const scale = Number(words.next());
  if (!Number.isFinite(scale) || scale === 0) throw damaged("its scale is no number");
  const bytes = new Bytes(file, scale < 0);
  const values = bytes.slice(words.at, width * height * 4);
  const view = new DataView(values.buffer, values.byteOffset, values.byteLength);
  const data = new Uint8Array(width * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const value = view.getFloat32(((height - 1 - y) * width + x) * 4, scale < 0);
      data.fill(Math.min(255, Math.max(0, Math.trunc(value) || 0)), to, to + 3);
    }
  }
  return { width, height, data };
}

/** Words between blanks, without comments. */
class Words {
  constructor(
    private readonly file: Uint8Array,
    public at: number,
    /** Whether these are values, behind the header. In both a comment joins what stands before and after its line. */
    private readonly values = false,
  ) {}

  next(): string {
    let word = "";
    for (;;) {
      const byte = this.file[this.at];
      if (byte === undefined) break;
      this.at++;
      if (byte === 0x23) this.at = lineEnd(this.file, this.at) + 1;
      else if (!isBlank(byte)) word += String.fromCharCode(byte);
      else if (word !== "") break;
      if (word.length > 10) throw damaged("it holds a number of more than ten digits");
    }
    if (word === "") throw damaged("its header ends too early");
    return word;
  }

  number(): number {
    let value = 0;
    for (let digits = 0; ;) {
      const byte = this.file[this.at];
      if (byte === undefined && digits === 0)
        throw damaged(`its ${this.values ? "values end" : "header ends"} too early`);
      if (byte === undefined) return value;
      this.at++;
      if (byte === 0x23) this.at = lineEnd(this.file, this.at) + 1;
      else if (byte >= 0x30 && byte <= 0x39) {
        value = value * 10 + byte - 0x30;
        if (++digits > 10) throw damaged("it holds a number of more than ten digits");
      } else if (!isBlank(byte)) throw damaged("it holds something other than numbers");
      else if (digits > 0) return value;
    }
  }
}

/** Where the line that `at` is in ends: the place of its line feed or carriage return. */
function lineEnd(file: Uint8Array, at: number): number {
  while (at < file.length && file[at] !== 10 && file[at] !== 13) at++;
  return at;
}

/** As Python rounds. */
function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}
