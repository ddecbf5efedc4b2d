/** Numbers from the bytes of a picture file. What lies behind the end is damage, never zero. */
import { damaged } from "./refusal.js";

export class Bytes {
  private readonly view: DataView;

  constructor(
    readonly data: Uint8Array,
    readonly littleEndian: boolean,
  ) {
    this.view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  }

  get length(): number {
    return this.data.length;
  }

  u8(at: number): number {
    return this.view.getUint8(this.inside(at, 1));
  }

  u16(at: number): number {
    return this.view.getUint16(this.inside(at, 2), this.littleEndian);
  }

  u32(at: number): number {
    return this.view.getUint32(this.inside(at, 4), this.littleEndian);
  }

  /** Beyond 2^53 no file reaches, so that the rounding of such a number does not matter. */
  u64(at: number): number {
    return Number(this.view.getBigUint64(this.inside(at, 8), this.littleEndian));
  }

  /** `size` bytes as numbers of any type. */
  viewOf(at: number, size: number): DataView {
    return new DataView(this.data.buffer, this.data.byteOffset + this.inside(at, size), size);
  }

  /** `size` bytes, without a copy. */
  slice(at: number, size: number): Uint8Array {
    return this.data.subarray(this.inside(at, size), at + size);
  }

  /** The same as text, one character a byte. */
  text(at: number, size: number): string {
    return latin1(this.slice(at, size));
  }

  private inside(at: number, size: number): number {
    if (!(at >= 0 && size >= 0 && at + size <= this.data.length))
      throw damaged("the file ends before its picture does");
    return at;
  }
}

export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}
