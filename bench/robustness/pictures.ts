/** Picture files: written here from known pixels, changed, and with headers that lie. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import sharp, { type Sharp } from "sharp";
import { maximumPixels, maximumSide } from "../../src/images/formats/limits.js";
import { loadImage, type RgbImage } from "../../src/images/load-image.js";
import type { Random } from "../../src/random.js";
import { bmp, gif, png, ppm, tiff } from "../../test/images/encoders.js";
import { changed, notTheFile, randomBytes } from "./changes.js";
import type { Kind, Trial } from "./trial.js";

/** Blocks of few colours, or noise; GIF can hold 256 colours. */
function knownPixels(random: Random, most = 40): RgbImage {
  const [width, height] = [random.between(1, most), random.between(1, most)];
  const palette = Array.from({ length: 200 }, () => [0, 0, 0].map(() => random.between(0, 255)));
  const side = random.between(1, 8);
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      data.set(palette[(Math.floor(y / side) * 31 + Math.floor(x / side) * 17) % 200]!, (y * width + x) * 3);
  return { width, height, data };
}

const raw = ({ data, width, height }: RgbImage): Sharp =>
  sharp(data, { raw: { width, height, channels: 3 } });

type Writer = (image: RgbImage, random: Random) => Buffer | Promise<Buffer>;

/** Formats that keep every value. */
const lossless: Readonly<Record<string, Writer>> = {
  BMP: (image, random) => bmp(image, random.chance(0.5)),
  PPM: (image, random) => ppm(image, random.chance(0.5)),
  PNG: (image) => png(image),
  GIF: (image) => gif(image),
  TIFF: (image, random) => {
    const deflate = random.chance(0.5);
    return tiff(image, {
      tile: random.chance(0.5) ? 16 : undefined,
      deflate,
      // Without compression the format has none.
      differences: deflate && random.chance(0.5),
      planes: random.chance(0.5),
    });
  },
  "PNG, interlaced": (image) => raw(image).png({ progressive: true }).toBuffer(),
  "TIFF, LZW": (image) => raw(image).tiff({ compression: "lzw" }).toBuffer(),
  "WebP, lossless": (image) => raw(image).webp({ lossless: true }).toBuffer(),
};

/** Formats that keep a picture about as it is. */
const lossy: Readonly<Record<string, Writer>> = {
  JPEG: (image) => raw(image).jpeg({ quality: 95, chromaSubsampling: "4:4:4" }).toBuffer(),
  "JPEG, progressive": (image) =>
    raw(image).jpeg({ quality: 95, progressive: true, chromaSubsampling: "4:4:4" }).toBuffer(),
  WebP: (image) => raw(image).webp({ quality: 95 }).toBuffer(),
  AVIF: (image) => raw(image).avif({ quality: 90, effort: 1, chromaSubsampling: "4:4:4" }).toBuffer(),
};

/** A smooth picture, which all formats keep well. */
function slope(random: Random): RgbImage {
  const [width, height] = [random.between(16, 48), random.between(16, 48)];
  const [a, b] = [random.between(0, 3), random.between(0, 3)];
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => {
    const [x, y] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width)];
    return 40 + a * x + b * y + 10 * (i % 3);
  });
  return { width, height, data };
}

/** Headers that name a size, with where and how it stands in them. */
const sizes: Readonly<Record<string, (file: Buffer, width: number, height: number) => Buffer>> = {
  BMP: (file, width, height) => {
    file.writeInt32LE(width, 18);
    file.writeInt32LE(height, 22);
    return file;
  },
  PNG: (file, width, height) => {
    file.writeUInt32BE(width, 16);
    file.writeUInt32BE(height, 20);
    file.writeUInt32BE(crc32(file.subarray(12, 29)), 29);
    return file;
  },
  GIF: (file, width, height) => {
    file.writeUInt16LE(width & 0xffff, 6);
    file.writeUInt16LE(height & 0xffff, 8);
    return file;
  },
  PPM: (file, width, height) =>
    Buffer.from(file.toString("latin1").replace(/\d+ \d+\n/, `${width} ${height}\n`), "latin1"),
};

function soundness({ width, height, data }: RgbImage): string | undefined {
  const isSize = Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0;
  if (!isSize || width * height > maximumPixels || Math.max(width, height) > maximumSide)
    return `${width} x ${height} pixels`;
  return data.length === width * height * 3
    ? undefined
    : `${data.length} bytes for ${width} x ${height} pixels`;
}

function difference(found: RgbImage, known: RgbImage, most: number): string | undefined {
  if (found.width !== known.width || found.height !== known.height)
    return `${found.width} x ${found.height} pixels in place of ${known.width} x ${known.height}`;
  let sum = 0;
  for (let i = 0; i < known.data.length; i++) sum += Math.abs(found.data[i]! - known.data[i]!);
  const mean = sum / known.data.length;
  return mean > most ? `values differ by ${mean.toFixed(2)} in the mean` : soundness(found);
}

export const pictures: Kind = {
  name: "pictures",
  title: "picture files",
  rule:
    "Written here from known pixels as BMP, PPM, PNG, GIF, TIFF, WebP, JPEG, AVIF and SVG; then whole, changed in some bytes, or with a header that claims another size, and things that are no pictures. " +
    "Right: every value as written, in JPEG, AVIF and lossy WebP within 4 of 255 in the mean. Accepted: a changed file that was read, with as many values as its size asks for, within the limits.",
  count: 4000,
  quick: 200,
  limit: 20_000,
  async prepare(folder) {
    const path = join(folder, "picture.bin");
    const trial = (
      form: string,
      must: Trial["must"],
      file: Buffer,
      fault: (read: RgbImage) => string | undefined,
    ): Trial => ({
      form,
      must,
      run: async () => {
        await writeFile(path, file);
        return fault(await loadImage(path));
      },
    });
    return async (random, index) => {
      const known = knownPixels(random);
      const name = random.pick(Object.keys(lossless));
      const part = index % 20;
      if (index % 400 === 399) {
        const { width, height } = known;
        const text = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><rect width="100%" height="100%" fill="#0a141e"/></svg>`;
        const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => [10, 20, 30][i % 3]!);
        return trial("SVG, whole", "read", Buffer.from(text), (read) =>
          difference(read, { width, height, data }, 0),
        );
      }
      if (part < 7) {
        const file = await lossless[name]!(known, random);
        return trial(`${name}, whole`, "read", file, (read) => difference(read, known, 0));
      }
      if (part < 9) {
        const smooth = slope(random);
        const other = random.pick(Object.keys(lossy));
        const file = await lossy[other]!(smooth, random);
        return trial(`${other}, whole`, "read", file, (read) => difference(read, smooth, 4));
      }
      if (part < 11) {
        const format = random.pick(Object.keys(sizes));
        const isHuge = random.chance(0.5);
        const [width, height] = isHuge
          ? [random.pick([100_000, 2 ** 30]), random.pick([1, 70_000])]
          : [random.between(1, 300), random.between(1, 300)];
        const file = sizes[format]!(Buffer.from(await lossless[format]!(known, random)), width, height);
        // A GIF's sizes have 16 bits: none is beyond the limits.
        const must = isHuge && format !== "GIF" ? "refuse" : "either";
        return trial(`${format}, ${isHuge ? "huge" : "other"} size`, must, file, soundness);
      }
      if (part === 11) {
        const [what, bytes] = random.pick([
          ...Object.entries(notTheFile),
          ["noise", randomBytes(random, random.between(1, 2000))] as const,
        ]);
        return trial(`no picture: ${what}`, "refuse", bytes, () => undefined);
      }
      const all = { ...lossless, ...lossy };
      const format = random.pick(Object.keys(all));
      const { what, bytes } = changed(await all[format]!(known, random), random);
      return trial(`${format}, ${what}`, "either", bytes, soundness);
    };
  },
};
