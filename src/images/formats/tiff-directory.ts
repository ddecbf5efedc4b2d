/** The first directory of a TIFF file, or of EXIF, which is one: its tags and their values. TIFF 6.0 section 2; BigTIFF. */
import { Bytes, latin1 } from "./bytes.js";
import { damaged, unsupported } from "./refusal.js";

interface Entry {
  readonly type: number;
  readonly count: number;
  readonly at: number;
}

/** Bytes of one value of each type. */
const sizes: Readonly<Record<number, number>> = {
  1: 1,
  2: 1,
  3: 2,
  4: 4,
  5: 8,
  6: 1,
  7: 1,
  8: 2,
  9: 4,
  10: 8,
  11: 4,
  12: 8,
  13: 4,
  16: 8,
};

const mostValues = 10_000_000;

export class TiffDirectory {
  constructor(
    readonly bytes: Bytes,
    private readonly entries: ReadonlyMap<number, Entry>,
  ) {}

  has(tag: number): boolean {
    return this.entries.has(tag);
  }

  /** The first value, or undefined if the tag is missing or no number. */
  number(tag: number): number | undefined {
    const entry = this.entries.get(tag);
    return entry === undefined || !isNumeric(entry.type) ? undefined : this.value(entry, 0);
  }

  /** All values, or undefined if the tag is missing. */
  numbers(tag: number): number[] | undefined {
    const entry = this.entries.get(tag);
    if (entry === undefined || !isNumeric(entry.type)) return undefined;
    if (entry.count > mostValues) throw damaged(`tag ${tag} has ${entry.count} values`);
    return Array.from({ length: entry.count }, (_, i) => this.value(entry, i));
  }

  /** The value's bytes, one character each. */
  text(tag: number): string | undefined {
    const entry = this.entries.get(tag);
    return entry === undefined
      ? undefined
      : latin1(this.bytes.slice(entry.at, entry.count * sizes[entry.type]!));
  }

  private value({ type, at }: Entry, i: number): number {
    const place = at + i * sizes[type]!;
    const { bytes } = this;
    const view = bytes.viewOf(place, sizes[type]!);
    const little = bytes.littleEndian;
    if (type === 3) return view.getUint16(0, little);
    if (type === 4 || type === 13) return view.getUint32(0, little);
    if (type === 16) return bytes.u64(place);
    if (type === 5) return view.getUint32(0, little) / view.getUint32(4, little);
    if (type === 8) return view.getInt16(0, little);
    if (type === 9) return view.getInt32(0, little);
    if (type === 10) return view.getInt32(0, little) / view.getInt32(4, little);
    if (type === 11) return view.getFloat32(0, little);
    if (type === 12) return view.getFloat64(0, little);
    return type === 6 ? view.getInt8(0) : view.getUint8(0);
  }
}

/** BYTE and UNDEFINED are bytes to Pillow, ASCII is text: none of them is a number. */
function isNumeric(type: number): boolean {
  return ![1, 2, 7].includes(type);
}

/**
 * Throws `PictureRefusal` if this is no TIFF. As in Pillow, values that are together longer than the file are left out, and nothing
 * behind a value that reaches beyond its end is read.
 */
export function readTiffDirectory(data: Uint8Array): TiffDirectory {
  const order = latin1(data.subarray(0, 2));
  if (order !== "II" && order !== "MM") throw damaged("no byte order stands at its beginning");
  const bytes = new Bytes(data, order === "II");
  const version = bytes.u16(2);
  // Some programs swap the bytes of the version alone.
  if (![42, 43, 42 << 8].includes(version)) throw unsupported(`version ${version} of TIFF is not read`);
  const big = version === 43;
  const start = big ? bytes.u64(8) : bytes.u32(4);
  const entries = new Map<number, Entry>();
  const [first, size] = big ? [start + 8, 20] : [start + 2, 12];
  if (first > data.length) return new TiffDirectory(bytes, entries);
  const count = big ? bytes.u64(start) : bytes.u16(start);
  let total = 0;
  for (let i = 0; i < count; i++) {
    const at = first + i * size;
    if (at + size > data.length) break;
    const [tag, type] = [bytes.u16(at), bytes.u16(at + 2)];
    const values = big ? bytes.u64(at + 4) : bytes.u32(at + 4);
    const length = values * (sizes[type] ?? 0);
    const place = at + (big ? 12 : 8);
    // The first of two entries of one tag counts.
    if (length === 0 || entries.has(tag)) continue;
    if (length <= (big ? 8 : 4)) entries.set(tag, { type, count: values, at: place });
    else {
      total += length;
      if (total > data.length) continue;
      const where = big ? bytes.u64(place) : bytes.u32(place);
      if (where + length > data.length) break;
      entries.set(tag, { type, count: values, at: where });
    }
  }
  return new TiffDirectory(bytes, entries);
}
