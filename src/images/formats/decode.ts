/** Bytes of a picture file to upright RGB: which kind it is is told by its first bytes, never by its name. */
import { stopIf } from "../../errors.js";
import sharp from "sharp";
import type { RgbImage } from "../rgb-image.js";
import { readAvifHeader } from "./avif-header.js";
import { decodeBmp } from "./bmp.js";
import { latin1 } from "./bytes.js";
import { decodeGif } from "./gif.js";
import { decodeIco } from "./ico.js";
import { readJpegHeader } from "./jpeg-header.js";
import { maximumAvifPixels, Turns } from "./limits.js";
import { decodeNetpbm } from "./netpbm.js";
import { exifOrientation, meaningful, orientationOf, turnUpright, xmpOrientation } from "./orientation.js";
import { decodePng, pngSignature } from "./png.js";
import { damaged, PictureRefusal, unsupported } from "./refusal.js";
import { decodeSvg } from "./svg.js";
import { decodeTiff } from "./tiff.js";
import { readWebpHeader } from "./webp-header.js";
import { decodeCmykJpeg, decodeWithSharp } from "./with-sharp.js";

export const supportedKinds = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, PBM, PGM, PPM, ICO and SVG";

type Decoder = (file: Uint8Array, signal: AbortSignal | undefined) => Promise<RgbImage>;

/** First bytes of each kind, and its decoder. */
const decoders: readonly (readonly [RegExp | string, Decoder])[] = [
  ["\xff\xd8\xff", jpeg],
  [pngSignature, png],
  [/^GIF8[79]a/, async (file) => decodeGif(file)],
  [/^RIFF[^]{4}WEBP/, webp],
  [/^(?:II[*+]\0|MM\0[*+]|MM\*\0|II\0\*)/, tiff],
  [/^BM[^]{12}/, async (file) => decodeBmp(file)],
  [/^[^]{4}ftyp/, avif],
  [/^P[1-7fF][\s#]/, (file, signal) => decodeNetpbm(file, new Turns(signal))],
  ["\0\0\x01\0", decodeIco],
  // Packed text, or text.
  ["\x1f\x8b", svg],
  [/<svg/i, svg],
  [/^(?:\xff\xfe|\xfe\xff)[^]*<\0?s\0?v\0?g/, svg],
];

/** Throws `PictureRefusal` for what is no picture, damaged, too large, or of a kind that would not come out right. */
export async function decodePicture(file: Uint8Array, signal: AbortSignal | undefined): Promise<RgbImage> {
  stopIf(signal);
  if (file.length === 0) throw unsupported("a picture is required, this is empty");
  const start = latin1(file.subarray(0, 4096));
  const decoder = decoders.find(([mark]) =>
    typeof mark === "string" ? start.startsWith(mark) : mark.test(start),
  )?.[1];
  if (decoder === undefined) throw unsupported("not a picture");
  const picture = await decoder(file, signal);
  stopIf(signal);
  return picture;
}

async function jpeg(file: Uint8Array): Promise<RgbImage> {
  const { components, orientation } = readJpegHeader(file);
  const upright = orientationOf(orientation);
  const picture = components === 4 ? await decodeCmykJpeg(file) : await decodeWithSharp(file);
  return turnUpright(picture, upright);
}

async function png(file: Uint8Array, signal: AbortSignal | undefined): Promise<RgbImage> {
  const { orientation, ...picture } = await decodePng(file, signal);
  return turnUpright(picture, orientationOf(orientation));
}

async function webp(file: Uint8Array): Promise<RgbImage> {
  const orientation = orientationOf(readWebpHeader(file));
  return turnUpright(await decodeWithSharp(file), orientation);
}

async function tiff(file: Uint8Array, signal: AbortSignal | undefined): Promise<RgbImage> {
  const { picture, orientation } = await decodeTiff(file, new Turns(signal));
  return turnUpright(picture === "libtiff" ? await decodeWithSharp(file) : picture, orientation);
}

async function avif(file: Uint8Array): Promise<RgbImage> {
  const brands = latin1(file.subarray(8, Math.min(file.length, 64)));
  if (!/avi[fs]/.test(brands))
    throw unsupported("HEIC, and what else comes in boxes, is not read, except AVIF");
  const { turned } = readAvifHeader(file);
  const picture = await decodeWithSharp(file, maximumAvifPixels).catch((error: unknown) => {
    if (error instanceof PictureRefusal && error.kind === "unsupported")
      throw unsupported("AVIF of this kind (a sequence, or of other content than AV1) is not read");
    throw error;
  });
  if (turned) return picture;
  const { exif, xmp } = await sharp(file)
    .metadata()
    .catch(() => {
      throw damaged("its header cannot be read");
    });
  // An orientation in EXIF is ignored beside the file's own turns, of which there are none; it keeps XMP from being asked.
  const silent = exifOrientation(exif) === undefined;
  return silent ? turnUpright(picture, meaningful(xmpOrientation(xmp && latin1(xmp)))) : picture;
}

async function svg(file: Uint8Array, signal: AbortSignal | undefined): Promise<RgbImage> {
  return decodeSvg(file, signal);
}
