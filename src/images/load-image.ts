/**
 * Pictures to 8-bit RGB, with the values that transformers' `load_image` gives, through which its PIL processors read paths:
 * turned upright as the EXIF orientation says, then Pillow's `convert("RGB")`. Colour profiles and gamma are not applied,
 * transparency is dropped, not blended.
 */
import { readFile, stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import sharp, { type Metadata, type Sharp } from "sharp";
import { InternalError, UserError } from "../errors.js";

/** A decoded picture: rows from the top, three bytes (red, green, blue) a pixel. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  /** height x width x 3 */
  readonly data: Uint8Array;
}

/** Pixels that the caller already has: 8 bits a channel, interleaved; 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA. */
export interface RawImage {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 2 | 3 | 4;
}

/** A path, a `file:` URL, the bytes of a picture file, or pixels. */
export type ImageSource = string | URL | Uint8Array | RawImage;

/** Pictures with more pixels are refused before they are decoded: a file of a few bytes can claim any size. */
const maximumPixels = 100_000_000;

/**
 * Decodes a picture (JPEG, PNG, WebP, GIF, TIFF, AVIF, SVG; the first frame if it has several).
 * Throws `UserError`, naming the file, if it is missing, not a picture, broken, or larger than `maximumPixels`.
 */
export async function loadImage(source: ImageSource): Promise<RgbImage> {
  if (typeof source === "string") return decode(await readPicture(source), source);
  if (source instanceof URL) {
    if (source.protocol !== "file:") {
      throw new UserError(
        `${source.href}: only file: URLs are read; download the picture and pass its bytes`,
      );
    }
    const path = fileURLToPath(source);
    return decode(await readPicture(path), path);
  }
  if (source instanceof Uint8Array) return decode(source, `picture of ${source.length} bytes`);
  return fromPixels(source);
}

async function readPicture(path: string): Promise<Uint8Array> {
  try {
    // Bytes rather than the path go to sharp, which remembers files by name and would miss that one changed.
    if ((await stat(path)).isFile()) return await readFile(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const why = code === "ENOENT" ? "this picture does not exist" : `cannot be read (${code})`;
    throw new UserError(`${path}: ${why}`, { cause: error });
  }
  throw new UserError(`${path}: a picture file is required, this is a folder or a device`);
}

async function decode(bytes: Uint8Array, name: string): Promise<RgbImage> {
  // Sizes are checked here, for a message that says them; sharp's own limit guards frames that the header does not announce.
  const metadata = await attempt(name, bytes, () => sharp(bytes, { limitInputPixels: false }).metadata());
  const { width, height } = metadata;
  if (width * height > maximumPixels) {
    throw new UserError(
      `${name}: the picture has ${width} x ${height} pixels, at most ${maximumPixels} are decoded; shrink it first`,
    );
  }
  const settings = { limitInputPixels: maximumPixels, ignoreIcc: true, failOn: "error" } as const;
  const picture = sharp(bytes, settings).autoOrient();
  return attempt(name, bytes, () => toRgb(picture, metadata));
}

async function toRgb(picture: Sharp, { space, channels, depth }: Metadata): Promise<RgbImage> {
  if (space === "cmyk") {
    const { data, info } = await picture
      .pipelineColourspace("cmyk")
      .toColourspace("cmyk")
      .raw()
      .toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: cmykToRgb(data, info.channels) };
  }
  if (space === "grey16" && channels === 1 && depth === "ushort") {
    const { data, info } = await picture
      .pipelineColourspace("grey16")
      .toColourspace("grey16")
      .raw({ depth: "ushort" })
      .toBuffer({ resolveWithObject: true });
    const values = new Uint16Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
    // Pillow cuts 16-bit grey at 255 instead of scaling it. Models see such files nearly white there, and so here.
    return { width: info.width, height: info.height, data: repeatGrey(values, 1) };
  }
  const { data, info } = await picture
    .toColourspace("srgb")
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  const size = { width: info.width, height: info.height };
  if (info.channels === 3)
    return { ...size, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
  return { ...size, data: repeatGrey(data, info.channels) };
}

/** Pillow's conversion without profiles: each ink takes its part of what black leaves. */
function cmykToRgb(cmyk: Uint8Array, channels: number): Uint8Array {
  const pixels = cmyk.length / channels;
  const rgb = new Uint8Array(pixels * 3);
  for (let i = 0; i < pixels; i++) {
    const light = 255 - cmyk[i * channels + 3]!;
    for (let ink = 0; ink < 3; ink++) {
      const product = cmyk[i * channels + ink]! * light + 128;
      rgb[i * 3 + ink] = light - (((product >> 8) + product) >> 8);
    }
  }
  return rgb;
}

function repeatGrey(values: Uint8Array | Uint8ClampedArray | Uint16Array, channels: number): Uint8Array {
  const pixels = values.length / channels;
  const rgb = new Uint8Array(pixels * 3);
  for (let i = 0; i < pixels; i++) rgb.fill(Math.min(255, values[i * channels]!), i * 3, i * 3 + 3);
  return rgb;
}

function fromPixels(source: RawImage): RgbImage {
  const { data, width, height, channels } = source ?? {};
  const isBytes = data instanceof Uint8Array || data instanceof Uint8ClampedArray;
  if (!isBytes || !isSize(width) || !isSize(height) || ![1, 2, 3, 4].includes(channels)) {
    throw new UserError(
      "image: a path, a file: URL, the bytes of a picture file, or { data, width, height, channels } with 8-bit data and 1 to 4 channels is required",
    );
  }
  if (data.length !== width * height * channels) {
    throw new UserError(
      `image: ${width} x ${height} pixels of ${channels} channels need ${width * height * channels} bytes of data, got ${data.length}`,
    );
  }
  if (width * height > maximumPixels) {
    throw new UserError(
      `image: ${width} x ${height} pixels given, at most ${maximumPixels} are accepted; shrink it first`,
    );
  }
  if (channels < 3) return { width, height, data: repeatGrey(data, channels) };
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += channels) {
    for (let channel = 0; channel < 3; channel++) rgb[to++] = data[from + channel]!;
  }
  return { width, height, data: rgb };
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

/** Runs a sharp call and words its failure, which can only come from the picture. */
async function attempt<T>(name: string, bytes: Uint8Array, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    if (cause instanceof InternalError) throw cause;
    const said = cause instanceof Error ? cause.message : String(cause);
    if (bytes.length === 0) throw new UserError(`${name}: a picture is required, this is empty`, { cause });
    if (/unsupported image format|empty/.test(said)) {
      throw new UserError(
        `${name}: not a picture, or of a kind that is not supported (JPEG, PNG, WebP, GIF, TIFF, AVIF, SVG are)`,
        {
          cause,
        },
      );
    }
    throw new UserError(`${name}: this picture is damaged or incomplete (${oneLine(said)})`, { cause });
  }
}

function oneLine(text: string): string {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > 160 ? `${line.slice(0, 160)}...` : line;
}
