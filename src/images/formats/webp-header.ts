/** The size of a WebP picture, and its EXIF and XMP, from the chunks of the file. */
import { Bytes, latin1 } from "./bytes.js";
import { checkSize } from "./limits.js";
import type { OrientationSources } from "./orientation.js";
import { damaged } from "./refusal.js";

/** Throws `PictureRefusal` if it is too large. */
export function readWebpHeader(file: Uint8Array): OrientationSources {
  const bytes = new Bytes(file, true);
  const kind = bytes.text(12, 4);
  const u24 = (at: number): number => bytes.u16(at) + (bytes.u8(at + 2) << 16);
  if (kind === "VP8 ") {
    checkSize(bytes.u16(26) & 0x3fff, bytes.u16(28) & 0x3fff);
    return {};
  }
  if (kind === "VP8L") {
    const packed = bytes.u32(21);
    checkSize((packed & 0x3fff) + 1, ((packed >>> 14) & 0x3fff) + 1);
    return {};
  }
  if (kind !== "VP8X") throw damaged("its header is missing");
  checkSize(u24(24) + 1, u24(27) + 1);
  const flags = bytes.u8(20);
  let exif: Uint8Array | undefined;
  let xmp: string | undefined;
  for (let at = 12; at + 8 <= file.length;) {
    const name = bytes.text(at, 4);
    const body = file.subarray(at + 8, at + 8 + bytes.u32(at + 4));
    // A chunk counts only if the header announces it.
    if (name === "EXIF" && flags & 8) exif ??= body;
    if (name === "XMP " && flags & 4) xmp ??= latin1(body);
    at += 8 + body.length + (body.length % 2);
  }
  return { exif, xmp };
}
