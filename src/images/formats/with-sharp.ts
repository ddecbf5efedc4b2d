/** Pictures that libvips decodes with Pillow's values: JPEG, WebP, AVIF, and TIFF with JPEG or CCITT inside. As stored, not turned. */
import sharp, { type Sharp } from "sharp";
import type { RgbImage } from "../rgb-image.js";
import { maximumPixels } from "./limits.js";
import { PictureRefusal, unsupported } from "./refusal.js";
import { inkToLight } from "./tiff.js";

/** Runs in libvips's own threads; libvips remembers nothing of bytes, as it does of files by name. */
export async function decodeWithSharp(file: Uint8Array, most = maximumPixels): Promise<RgbImage> {
  return worded(() => pixels(open(file, most).toColourspace("srgb").removeAlpha()));
}

/** A JPEG of four inks, which Pillow takes for inverted whether or not an Adobe marker says so. */
export async function decodeCmykJpeg(file: Uint8Array): Promise<RgbImage> {
  return worded(async () => {
    const { data, info } = await open(file, maximumPixels)
      .pipelineColourspace("cmyk")
      .toColourspace("cmyk")
      .raw()
      .toBuffer({ resolveWithObject: true });
    if (info.channels !== 4) throw unsupported(`JPEG that decodes to ${info.channels} inks is not read`);
    const rgb = new Uint8Array(info.width * info.height * 3);
    for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
      const black = data[from + 3]!;
      for (let ink = 0; ink < 3; ink++) rgb[to + ink] = inkToLight(data[from + ink]!, black);
    }
    return { width: info.width, height: info.height, data: rgb };
  });
}

function open(file: Uint8Array, most: number): Sharp {
  return sharp(file, {
    limitInputPixels: most,
    ignoreIcc: true,
    failOn: "error",
    autoOrient: false,
  });
}

async function pixels(picture: Sharp): Promise<RgbImage> {
  const { data, info } = await picture.raw().toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  if (channels === 3)
    return { width, height, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += channels, to += 3) rgb.fill(data[from]!, to, to + 3);
  return { width, height, data: rgb };
}

async function worded<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof PictureRefusal) throw cause;
    const said = (cause instanceof Error ? cause.message : String(cause)).replace(/\s+/g, " ").trim();
    if (/unsupported image format/.test(said))
      throw new PictureRefusal("unsupported", "not a picture", { cause });
    throw new PictureRefusal("damaged", said.length > 160 ? `${said.slice(0, 160)}...` : said, { cause });
  }
}
