/**
 * Pictures to 8-bit RGB, with the values that transformers' `load_image` gives with Pillow 13, through which its PIL processors read
 * paths: turned upright as EXIF or XMP say, then Pillow's `convert("RGB")`. Colour profiles and gamma are not applied,
 * transparency is dropped, not blended.
 */
import { readFile, stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { interrupted, stopIf, UserError } from "../errors.js";
import { decodePicture, supportedKinds } from "./formats/decode.js";
import { maximumBytes, maximumPixels, maximumSide } from "./formats/limits.js";
import { PictureRefusal } from "./formats/refusal.js";
import type { RgbImage } from "./rgb-image.js";

export type { RgbImage } from "./rgb-image.js";

/** Pixels that the caller already has: 8 bits a channel, interleaved; 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA. */
export interface RawImage {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 2 | 3 | 4;
}

/** A path, a `file:` URL, the bytes of a picture file, or pixels. */
export type ImageSource = string | URL | Uint8Array | RawImage;

/**
 * Decodes a picture (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, PBM, PGM, PPM, ICO, SVG; the first frame if it has several).
 * Throws `UserError`, naming the file, if it is missing, not a picture, broken, of a kind that would not come out right, or beyond
 * `maximumPixels`, `maximumSide` or `maximumBytes`; `InterruptedError` as soon as the signal is given.
 */
export async function loadImage(
  source: ImageSource,
  { signal }: { readonly signal?: AbortSignal | undefined } = {},
): Promise<RgbImage> {
  stopIf(signal);
  if (typeof source === "string") return decodeFile(source, signal);
  if (source instanceof URL) {
    if (source.protocol !== "file:") {
      throw new UserError(
        `${shownPath(source.href)}: only file: URLs are read; download the picture and pass its bytes`,
      );
    }
    return decodeFile(fileURLToPath(source), signal);
  }
  if (source instanceof Uint8Array) return decode(source, `picture of ${source.length} bytes`, signal);
  return fromPixels(source);
}

async function decodeFile(path: string, signal: AbortSignal | undefined): Promise<RgbImage> {
  if (/^data:/i.test(path)) {
    throw new UserError(
      `${shownPath(path)}: data: URLs are not read; decode it and pass the bytes, or write them to a file`,
    );
  }
  return decode(await readPicture(path, signal), shownPath(path), signal);
}

const longestName = 200;

/** A path as messages have it: one that holds a picture, or is endless, is cut. */
export function shownPath(path: string): string {
  const most = /^data:/i.test(path) ? 40 : longestName;
  return path.length <= most ? path : `${path.slice(0, most)}... (${path.length} characters)`;
}

async function readPicture(path: string, signal: AbortSignal | undefined): Promise<Uint8Array> {
  let size: number | undefined;
  try {
    const about = await stat(path);
    if (about.isFile()) {
      size = about.size;
      if (size <= maximumBytes) return await readFile(path, { signal });
    }
  } catch (error) {
    stopIf(signal);
    const { code } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "this picture does not exist" : `cannot be read (${code})`;
    throw new UserError(`${shownPath(path)}: ${why}`, { cause: withoutPath(error) });
  }
  if (size === undefined)
    throw new UserError(`${shownPath(path)}: a picture file is required, this is a folder or a device`);
  throw tooManyBytes(shownPath(path), size);
}

/** Node's errors repeat the path. */
function withoutPath(error: unknown): unknown {
  const { code, message } = error as NodeJS.ErrnoException;
  return message.length > 2 * longestName ? new Error(String(code)) : error;
}

function tooManyBytes(name: string, size: number): UserError {
  return new UserError(
    `${name}: the file has ${size} bytes, at most ${maximumBytes} are read; shrink it first`,
  );
}

async function decode(bytes: Uint8Array, name: string, signal: AbortSignal | undefined): Promise<RgbImage> {
  if (bytes.length > maximumBytes) throw tooManyBytes(name, bytes.length);
  try {
    return await untilStopped(decodePicture(bytes, signal), signal);
  } catch (error) {
    if (!(error instanceof PictureRefusal)) throw error;
    const { message, kind, cause } = error;
    const said =
      kind === "damaged"
        ? `this picture is damaged or incomplete (${message})`
        : message === "not a picture"
          ? `not a picture, or of a kind that is not supported (${supportedKinds} are)`
          : message;
    throw new UserError(`${name}: ${said}`, { cause: cause ?? error });
  }
}

/** libvips cannot be stopped; who waits for it can. */
async function untilStopped<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  let stop: (() => void) | undefined;
  const stopped = new Promise<never>((_, reject) => {
    stop = () => reject(interrupted(signal));
    signal.addEventListener("abort", stop);
  });
  try {
    return await Promise.race([work, stopped]);
  } finally {
    signal.removeEventListener("abort", stop!);
    work.catch(() => undefined);
  }
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
  if (width * height > maximumPixels || Math.max(width, height) > maximumSide) {
    throw new UserError(
      `image: ${width} x ${height} pixels given, at most ${maximumPixels} and ${maximumSide} a side are accepted; shrink it first`,
    );
  }
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += channels) {
    for (let c = 0; c < 3; c++) rgb[to++] = data[channels < 3 ? from : from + c]!;
  }
  return { width, height, data: rgb };
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}
