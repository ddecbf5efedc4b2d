/**
 * How a picture is turned upright: Pillow's `exif_transpose`. The orientation in EXIF counts if there is one, whatever its
 * value; else the one in XMP. EXIF that is none says nothing, and keeps XMP from being asked.
 */
import type { RgbImage } from "../rgb-image.js";
import { latin1 } from "./bytes.js";
import { readTiffDirectory } from "./tiff-directory.js";

const orientationTag = 0x0112;

/** What a file says of itself; undefined where it says nothing. */
export interface OrientationSources {
  /** A TIFF header with a directory, behind "Exif\0\0" or not. */
  readonly exif?: Uint8Array | undefined;
  /** An XMP packet, one character a byte. */
  readonly xmp?: string | undefined;
}

/** 1 to 8 as EXIF counts them; 1, upright, if nothing is said or what is said has no meaning. */
export function orientationOf({ exif, xmp }: OrientationSources): number {
  return meaningful(exifOrientation(exif) ?? xmpOrientation(xmp));
}

export function meaningful(orientation: number | undefined): number {
  return orientation !== undefined && orientation >= 1 && orientation <= 8 && Number.isInteger(orientation)
    ? orientation
    : 1;
}

/** undefined if there is none. Values without a meaning are kept: they too go before XMP. */
export function exifOrientation(exif: Uint8Array | undefined): number | undefined {
  if (exif === undefined) return undefined;
  let start = 0;
  for (let i = 0; i < 2 && latin1(exif.subarray(start, start + 6)) === "Exif\0\0"; i++) start += 6;
  if (start === exif.length) return undefined;
  try {
    const directory = readTiffDirectory(exif.subarray(start));
    return directory.has(orientationTag) ? (directory.number(orientationTag) ?? 0) : undefined;
  } catch {
    return 0;
  }
}

/** The first that stands in the packet, as an attribute or as an element. */
export function xmpOrientation(xmp: string | undefined): number | undefined {
  const match = xmp === undefined ? null : /tiff:Orientation(?:="|>)([0-9])/.exec(xmp);
  return match === null ? undefined : Number(match[1]);
}

/** The picture turned so that its first row is the top one. */
export function turnUpright(image: RgbImage, orientation: number): RgbImage {
  if (orientation === 1) return image;
  const { width: fromWidth, height: fromHeight, data } = image;
  const onSide = orientation >= 5;
  const [width, height] = onSide ? [fromHeight, fromWidth] : [fromWidth, fromHeight];
  // Where the pixel at the top left comes from, and how far apart neighbours along a row and along a column lie.
  const right = [2, 3, 7, 8].includes(orientation) ? fromWidth - 1 : 0;
  const bottom = [3, 4, 6, 7].includes(orientation) ? fromHeight - 1 : 0;
  const alongX = right > 0 ? -3 : 3;
  const alongY = (bottom > 0 ? -3 : 3) * fromWidth;
  const [stepX, stepY] = onSide ? [alongY, alongX] : [alongX, alongY];
  const first = (bottom * fromWidth + right) * 3;
  const turned = new Uint8Array(data.length);
  let to = 0;
  for (let y = 0; y < height; y++) {
    let from = first + y * stepY;
    for (let x = 0; x < width; x++, from += stepX) {
      turned[to++] = data[from]!;
      turned[to++] = data[from + 1]!;
      turned[to++] = data[from + 2]!;
    }
  }
  return { width, height, data: turned };
}
