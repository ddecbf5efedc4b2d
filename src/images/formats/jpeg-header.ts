/** What stands before the pixels of a JPEG file: size, components, EXIF and XMP. The pixels are libjpeg's affair. */
import { Bytes, latin1 } from "./bytes.js";
import { checkSize, maximumPixels, maximumProgressiveSamples } from "./limits.js";
import type { OrientationSources } from "./orientation.js";
import { damaged, unsupported } from "./refusal.js";

export interface JpegHeader {
  readonly width: number;
  readonly height: number;
  readonly components: number;
  readonly progressive: boolean;
  readonly orientation: OrientationSources;
}

const xmpHeading = "http://ns.adobe.com/xap/1.0/\0";

/** Throws `PictureRefusal` for what cannot be a picture, is not read, or is too large. */
export function readJpegHeader(file: Uint8Array): JpegHeader {
  const bytes = new Bytes(file, false);
  let frame: { width: number; height: number; components: number; progressive: boolean } | undefined;
  const parts: Uint8Array[] = [];
  let xmp: string | undefined;
  for (let at = 2; ;) {
    // Between segments there may be filling.
    while (bytes.u8(at) !== 0xff || bytes.u8(at + 1) === 0xff || bytes.u8(at + 1) === 0) at++;
    const marker = bytes.u8(at + 1);
    at += 2;
    if (marker === 0xd9) throw damaged("it holds no pixels");
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) continue;
    const body = bytes.slice(at + 2, Math.max(0, bytes.u16(at) - 2));
    at += 2 + body.length;
    if (marker === 0xda) break;
    if (marker === 0xe1 && startsWith(body, "Exif\0\0")) {
      // EXIF of more than 64 kB goes on in the next segment.
      if (parts.length === 4096) throw damaged("its EXIF goes on without end");
      parts.push(parts.length === 0 ? body : body.subarray(6));
    } else if (marker === 0xe1 && startsWith(body, xmpHeading))
      xmp = latin1(body.subarray(xmpHeading.length));
    else if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      const part = new Bytes(body, false);
      if (part.u8(0) !== 8) throw unsupported(`JPEG with ${part.u8(0)} bits is not read`);
      if (![0xc0, 0xc1, 0xc2, 0xc9, 0xca].includes(marker))
        throw unsupported("JPEG without loss or in layers is not read");
      frame = {
        width: part.u16(3),
        height: part.u16(1),
        components: part.u8(5),
        progressive: marker === 0xc2 || marker === 0xca,
      };
    }
  }
  if (frame === undefined) throw damaged("its header is missing");
  if (![1, 3, 4].includes(frame.components))
    throw unsupported(`JPEG with ${frame.components} components is not read`);
  const most = frame.progressive ? Math.floor(maximumProgressiveSamples / frame.components) : maximumPixels;
  checkSize(frame.width, frame.height, Math.min(most, maximumPixels));
  const exif = parts.length === 0 ? undefined : Buffer.concat(parts);
  return { ...frame, orientation: { exif, xmp } };
}

function startsWith(bytes: Uint8Array, text: string): boolean {
  return latin1(bytes.subarray(0, text.length)) === text;
}
