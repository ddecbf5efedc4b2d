/**
 * What a TIFF file says of its first picture, and whether that is a kind which comes out with Pillow's values. The rest is
 * refused by name: a wrong picture looks like a picture.
 */
import { checkSize } from "./limits.js";
import { unsupported } from "./refusal.js";
import type { TiffDirectory } from "./tiff-directory.js";

/** How the samples of a pixel become red, green and blue. */
export type Colours = "grey" | "palette" | "rgb" | "cmyk" | "ycbcr";

export interface TiffLayout {
  readonly width: number;
  readonly height: number;
  readonly compression: number;
  readonly colours: Colours;
  /** Grey: 0 is white. */
  readonly whiteIsZero: boolean;
  /** Bits of each sample. */
  readonly bits: number;
  readonly format: "unsigned" | "signed" | "float";
  /** Samples of a pixel, with those that are not colours. */
  readonly samples: number;
  /** What the samples that are no colours mean. */
  readonly extra: readonly number[];
  /** Colours were multiplied by this sample, an alpha. */
  readonly premultipliedBy: number | undefined;
  /** Each sample's plane is stored apart. */
  readonly planar: boolean;
  /** The first pixel of a byte lies in its low bits. */
  readonly lowBitFirst: boolean;
  readonly predictor: number;
  /** Pixels that share one pair of chroma samples. */
  readonly subsampling: readonly [across: number, down: number];
  readonly tiled: boolean;
  /** Of a strip or tile, in pixels. */
  readonly segment: { readonly width: number; readonly height: number };
}

export const tag = {
  width: 256,
  height: 257,
  bits: 258,
  compression: 259,
  photometric: 262,
  fillOrder: 266,
  stripOffsets: 273,
  samples: 277,
  rowsPerStrip: 278,
  stripSizes: 279,
  planar: 284,
  predictor: 317,
  palette: 320,
  tileWidth: 322,
  tileHeight: 323,
  tileOffsets: 324,
  tileSizes: 325,
  extra: 338,
  format: 339,
  luma: 529,
  subsampling: 530,
  referenceBlackWhite: 532,
  xmp: 700,
} as const;

const compressionNames: Readonly<Record<number, string>> = {
  1: "none",
  2: "CCITT",
  3: "CCITT group 3",
  4: "CCITT group 4",
  5: "LZW",
  6: "old-style JPEG",
  7: "JPEG",
  8: "deflate",
  32773: "PackBits",
  32946: "deflate",
  32771: "words",
  32809: "ThunderScan",
  34676: "SGILog",
  34677: "SGILog24",
  34925: "LZMA",
  50000: "Zstandard",
  50001: "WebP",
};

const photometricNames: Readonly<Record<number, string>> = {
  0: "grey",
  1: "grey",
  2: "RGB",
  3: "palette",
  4: "mask",
  5: "CMYK",
  6: "YCbCr",
  8: "CIELab",
};

const coloursOf: Readonly<Record<number, Colours>> = {
  0: "grey",
  1: "grey",
  2: "rgb",
  3: "palette",
  5: "cmyk",
  6: "ycbcr",
};

/** Throws `PictureRefusal` for a size that is not taken on. What else is wrong is for `checkLayout`. */
export function readTiffLayout(directory: TiffDirectory): TiffLayout {
  const number = (which: keyof typeof tag, otherwise: number): number =>
    directory.number(tag[which]) ?? otherwise;
  const [width, height] = [number("width", 0), number("height", 0)];
  checkSize(width, height);
  const compression = number("compression", 1);
  const photometric = compression === 6 ? 6 : number("photometric", 0);
  const colours = coloursOf[photometric];
  const what = photometricNames[photometric] ?? `photometric interpretation ${photometric}`;
  if (colours === undefined) throw unsupported(`TIFF of ${what} is not read`);
  const allBits = directory.numbers(tag.bits) ?? [1];
  const formats = directory.numbers(tag.format) ?? [1];
  const samples = number("samples", allBits.length);
  const bits = allBits[0]!;
  if (allBits.some((other) => other !== bits) || formats.some((other) => other !== formats[0]))
    throw unsupported("TIFF with samples of several sizes is not read");
  if (allBits.length > 1 && allBits.length < samples)
    throw unsupported("TIFF with samples of unknown size is not read");
  const format = ({ 1: "unsigned", 2: "signed", 3: "float" } as const)[formats[0]!];
  if (format === undefined) throw unsupported(`TIFF of sample format ${formats[0]} is not read`);
  const extra = directory.numbers(tag.extra) ?? [];
  const plain = { grey: 1, palette: 1, rgb: 3, cmyk: 4, ycbcr: 3 }[colours];
  // RGB of four samples that says nothing of the fourth means an alpha.
  const silentAlpha = colours === "rgb" && samples === 4 && extra.length === 0;
  const greyOfYcbcr = colours === "ycbcr" && samples === 1;
  if (samples !== plain + extra.length && !silentAlpha && !greyOfYcbcr)
    throw unsupported(`TIFF of ${what} with ${samples} samples is not read`);
  const tiled = directory.has(tag.tileOffsets) && !directory.has(tag.stripOffsets);
  // The default is 2 x 2, which Pillow does not know of: it takes plain files for what their length says.
  const whole =
    directory.numbers(tag.stripSizes)?.reduce((sum, size) => sum + size, 0) === width * height * 3;
  const [across = 2, down = 2] =
    directory.numbers(tag.subsampling) ?? (compression === 1 && whole ? [1, 1] : []);
  return {
    width,
    height,
    compression,
    bits,
    format,
    samples,
    extra,
    tiled,
    colours: greyOfYcbcr ? "grey" : colours,
    whiteIsZero: photometric === 0,
    premultipliedBy: extra.includes(1) ? plain + extra.indexOf(1) : undefined,
    planar: number("planar", 1) === 2 && samples > 1,
    lowBitFirst: number("fillOrder", 1) === 2,
    predictor: number("predictor", 1),
    subsampling: colours === "ycbcr" && !greyOfYcbcr ? [across, down] : [1, 1],
    segment: tiled
      ? { width: number("tileWidth", 0), height: number("tileHeight", 0) }
      : { width, height: Math.min(height, number("rowsPerStrip", height)) },
  };
}

/** Throws `PictureRefusal`, naming the kind, unless this is one that our own decoder reads as Pillow does. */
export function checkLayout(layout: TiffLayout, littleEndian: boolean): void {
  const { bits, format, samples, colours, compression, planar, premultipliedBy, lowBitFirst, predictor } =
    layout;
  const packed = compression !== 1;
  const refuse = (why: string): never => {
    throw unsupported(`TIFF ${why} is not read`);
  };
  if (![1, 5, 8, 32773, 32946].includes(compression))
    refuse(`compressed with ${compressionNames[compression] ?? `scheme ${compression}`}`);
  const kind = `of ${format} ${colours} with ${bits} bits`;
  if (colours === "grey" && samples === 1) {
    const small = format === "unsigned" ? [1, 2, 4, 8].includes(bits) : bits === 8 && format === "signed";
    const twelve = bits === 12 && format === "unsigned" && littleEndian && !layout.whiteIsZero;
    const sixteen = bits === 16 && format !== "float";
    const wide = bits === 32 && (format !== "unsigned" || littleEndian);
    if (!(small || twelve || sixteen || wide)) refuse(kind);
    if (format === "signed" && layout.whiteIsZero) refuse(`${kind} where 0 is white`);
    if (bits >= 16 && layout.whiteIsZero && format === "unsigned" && !(bits === 16 && littleEndian))
      refuse(`${kind} where 0 is white`);
    // Pillow swaps the bytes of these twice.
    if (packed && !littleEndian && bits >= 16 && !(bits === 16 && format === "unsigned"))
      refuse(`${kind}, high byte first and compressed,`);
  } else if (format !== "unsigned") refuse(kind);
  else if (colours === "palette") {
    if (![1, 2, 4, 8].includes(bits) || (samples > 1 && bits !== 8)) refuse(kind);
  } else if (bits !== 8 && !(bits === 16 && (colours === "rgb" || colours === "cmyk"))) refuse(kind);
  if (
    samples > 6 ||
    (colours === "grey" && samples > 2) ||
    (bits === 16 && colours !== "grey" && samples > 4)
  )
    refuse(`${kind} and ${samples} samples`);
  if (colours === "grey" && samples === 2 && (bits !== 8 || layout.whiteIsZero)) refuse(`${kind} and alpha`);
  if (premultipliedBy !== undefined && (colours !== "rgb" || premultipliedBy !== 3 || planar))
    refuse(`${kind} and premultiplied alpha`);
  if (lowBitFirst && !(colours === "palette" || (colours === "rgb" && bits === 8) || colours === "grey"))
    refuse(`${kind}, low bit first,`);
  if (
    lowBitFirst &&
    colours === "grey" &&
    (bits > 16 || format === "signed" || (!littleEndian && bits === 16))
  )
    refuse(`${kind}, low bit first,`);
  const planes = (colours === "rgb" && (samples !== 4 || layout.extra.length > 0)) || colours === "cmyk";
  if (planar && (!planes || samples > 4 || (bits > 8 && !packed))) refuse(`${kind} in separate planes`);
  if (predictor !== 1 && packed) {
    if (![2, 3].includes(predictor) || (predictor === 3) !== (format === "float") || bits < 8 || bits === 12)
      refuse(`${kind} and predictor ${predictor}`);
    if (compression === 32773) refuse("with PackBits and a predictor");
  }
  if (colours === "ycbcr") {
    const [across, down] = layout.subsampling;
    const known = [1, 2, 4].includes(across) && [1, 2].includes(down);
    if (!known) refuse(`of YCbCr with ${across} x ${down} pixels to a chroma sample`);
    // Pillow takes such files for ones without subsampling.
    if (!packed && across * down > 1) refuse("of YCbCr with subsampling and without compression");
  }
}
