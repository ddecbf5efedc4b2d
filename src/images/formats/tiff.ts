/**
 * The first picture of a TIFF as Pillow reads it: plain, LZW, deflate and PackBits here; JPEG and CCITT are left to libtiff.
 * Grey of more than 8 bits is cut at 255; colours with 16 bits give their upper 8; alpha is dropped, after it was divided out.
 */
import type { RgbImage } from "../rgb-image.js";
import type { Turns } from "./limits.js";
import { meaningful, xmpOrientation } from "./orientation.js";
import { damaged, unsupported } from "./refusal.js";
import { readTiffDirectory, type TiffDirectory } from "./tiff-directory.js";
import { checkLayout, readTiffLayout, tag, type TiffLayout } from "./tiff-layout.js";
import { tiffSegments, type Segment } from "./tiff-segments.js";
import { ycbcrPixel, type YcbcrTables, ycbcrTables } from "./ycbcr.js";

/** The picture as stored, or "libtiff" where it is to be decoded there. */
export async function decodeTiff(
  file: Uint8Array,
  turns: Turns,
): Promise<{ readonly picture: RgbImage | "libtiff"; readonly orientation: number }> {
  const directory = readTiffDirectory(file);
  const layout = readTiffLayout(directory);
  const orientation = meaningful(
    directory.has(0x0112) ? (directory.number(0x0112) ?? 0) : xmpOrientation(directory.text(tag.xmp)),
  );
  if ([2, 3, 4, 7].includes(layout.compression)) {
    checkForLibtiff(layout);
    return { picture: "libtiff", orientation };
  }
  checkLayout(layout, directory.bytes.littleEndian);
  const { width, height } = layout;
  const data = new Uint8Array(width * height * 3);
  const convert = converter(directory, layout);
  for (const segment of tiffSegments(directory, layout)) {
    convert(segment, data);
    await turns.next();
  }
  return { picture: { width, height, data }, orientation };
}

/** JPEG in one plane, and CCITT. */
function checkForLibtiff({
  compression,
  colours,
  bits,
  samples,
  planar,
  premultipliedBy,
  format,
}: TiffLayout): void {
  const refuse = (what: string): never => {
    throw unsupported(`TIFF with ${what} is not read`);
  };
  if (compression !== 7) {
    if (bits !== 1 || samples !== 1) refuse(`CCITT compression of ${bits} bits`);
    return;
  }
  if (bits !== 8 || format !== "unsigned" || colours === "palette" || colours === "cmyk")
    refuse(`JPEG of ${bits} bits of ${colours}`);
  if (planar || premultipliedBy !== undefined || samples > 4) refuse(`JPEG of ${samples} samples`);
}

type Converter = (segment: Segment, rgb: Uint8Array) => void;

function converter(directory: TiffDirectory, layout: TiffLayout): Converter {
  const { colours, planar, bits, width } = layout;
  const little = directory.bytes.littleEndian;
  if (colours === "ycbcr") {
    const tables = ycbcrTables(
      layout.compression === 1,
      directory.numbers(tag.luma),
      directory.numbers(tag.referenceBlackWhite),
    );
    return ycbcr(layout, tables);
  }
  if (colours === "grey") return grey(layout, little);
  if (colours === "palette") return palette(layout, directory.numbers(tag.palette));
  // Of 16 bits the upper byte counts.
  const step = bits / 8;
  const high = bits === 16 && little ? 1 : 0;
  if (colours === "cmyk") return cmyk(layout, step, high);
  if (planar) {
    return ({ x, y, plane, data, stride, width: columns, height: rows }, rgb) => {
      if (plane > 2) return;
      for (let row = 0; row < rows; row++) {
        let to = ((y + row) * width + x) * 3 + plane;
        for (let i = 0; i < columns; i++, to += 3) rgb[to] = data[row * stride + i * step + high]!;
      }
    };
  }
  const { samples, premultipliedBy } = layout;
  return eachPixel(layout, samples * step, (data, from, rgb, to) => {
    for (let c = 0; c < 3; c++) rgb[to + c] = data[from + c * step + high]!;
    if (premultipliedBy === undefined) return;
    const alpha = data[from + premultipliedBy * step + high]!;
    for (let c = 0; c < 3; c++)
      rgb[to + c] = alpha === 0 ? 0 : Math.min(255, Math.floor((rgb[to + c]! * 255) / alpha));
  });
}

/** Of pixels that are whole bytes. */
function eachPixel(
  { width }: TiffLayout,
  size: number,
  convert: (data: Uint8Array, from: number, rgb: Uint8Array, to: number) => void,
): Converter {
  return ({ x, y, data, stride, width: columns, height: rows }, rgb) => {
    for (let row = 0; row < rows; row++) {
      let from = row * stride;
      let to = ((y + row) * width + x) * 3;
      for (let i = 0; i < columns; i++, from += size, to += 3) convert(data, from, rgb, to);
    }
  };
}

function grey(layout: TiffLayout, little: boolean): Converter {
  const { bits, format, samples, whiteIsZero } = layout;
  const set = (rgb: Uint8Array, to: number, value: number): void => {
    rgb[to] = rgb[to + 1] = rgb[to + 2] = value;
  };
  if (bits < 8 || bits === 12) {
    const most = (1 << bits) - 1;
    return eachSample(layout, (value, rgb, to) => {
      // 12 bits are cut as 16 are, fewer are spread.
      if (bits === 12) set(rgb, to, Math.min(255, value));
      else set(rgb, to, ((whiteIsZero ? most - value : value) * 255) / most);
    });
  }
  if (bits === 8)
    return eachPixel(layout, samples, (data, from, rgb, to) =>
      set(rgb, to, whiteIsZero ? 255 - data[from]! : data[from]!),
    );
  return eachPixel(layout, bits / 8, (data, from, rgb, to) => {
    const view = new DataView(data.buffer, data.byteOffset + from, bits / 8);
    const value =
      format === "float"
        ? Math.trunc(view.getFloat32(0, little)) || 0
        : bits === 32
          ? view.getInt32(0, little)
          : format === "signed"
            ? view.getInt16(0, little)
            : view.getUint16(0, little);
    set(rgb, to, Math.min(255, Math.max(0, value)));
  });
}

function palette(layout: TiffLayout, colours: readonly number[] | undefined): Converter {
  if (colours === undefined) throw damaged("its palette is missing");
  const entries = Math.floor(colours.length / 3);
  const set = (rgb: Uint8Array, to: number, index: number): void => {
    for (let c = 0; c < 3; c++) rgb[to + c] = index < entries ? colours[c * entries + index]! >> 8 : 0;
  };
  if (layout.bits < 8) return eachSample(layout, (value, rgb, to) => set(rgb, to, value));
  return eachPixel(layout, layout.samples, (data, from, rgb, to) => set(rgb, to, data[from]!));
}

/** Of samples that are no whole bytes, one a pixel. */
function eachSample(
  { width, bits }: TiffLayout,
  convert: (value: number, rgb: Uint8Array, to: number) => void,
): Converter {
  const most = (1 << bits) - 1;
  return ({ x, y, data, stride, width: columns, height: rows }, rgb) => {
    for (let row = 0; row < rows; row++) {
      let to = ((y + row) * width + x) * 3;
      for (let i = 0; i < columns; i++, to += 3) {
        const bit = i * bits;
        const at = row * stride + (bit >> 3);
        const pair = (data[at]! << 8) | (data[at + 1] ?? 0);
        convert((pair >> (16 - bits - (bit & 7))) & most, rgb, to);
      }
    }
  };
}

function cmyk(layout: TiffLayout, step: number, high: number): Converter {
  const { samples, planar, width } = layout;
  if (!planar)
    return eachPixel(layout, samples * step, (data, from, rgb, to) => {
      for (let ink = 0; ink < 3; ink++)
        rgb[to + ink] = inkToLight(data[from + ink * step + high]!, data[from + 3 * step + high]!);
    });
  // Black comes last, and darkens what the others have left.
  return ({ x, y, plane, data, stride, width: columns, height: rows }, rgb) => {
    if (plane > 3) return;
    for (let row = 0; row < rows; row++) {
      let to = ((y + row) * width + x) * 3;
      for (let i = 0; i < columns; i++, to += 3) {
        const value = data[row * stride + i * step + high]!;
        if (plane < 3) rgb[to + plane] = value;
        else for (let ink = 0; ink < 3; ink++) rgb[to + ink] = inkToLight(rgb[to + ink]!, value);
      }
    }
  };
}

/** Pillow's conversion without profiles: each ink takes its part of what black leaves. */
export function inkToLight(ink: number, black: number): number {
  const light = 255 - black;
  const product = ink * light + 128;
  return light - (((product >> 8) + product) >> 8);
}

function ycbcr(layout: TiffLayout, tables: YcbcrTables): Converter {
  const { width, subsampling } = layout;
  const [across, down] = subsampling;
  const unit = across * down + 2;
  return ({ x, y, data, stride, width: columns, height: rows }, rgb) => {
    for (let row = 0; row < rows; row++) {
      let to = ((y + row) * width + x) * 3;
      const block = Math.floor(row / down) * stride;
      for (let i = 0; i < columns; i++, to += 3) {
        const from = block + Math.floor(i / across) * unit;
        const luma = data[from + (row % down) * across + (i % across)]!;
        ycbcrPixel(tables, luma, data[from + unit - 2]!, data[from + unit - 1]!, rgb, to);
      }
    }
  };
}
