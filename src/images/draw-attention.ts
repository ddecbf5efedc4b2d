/**
 * Heat maps of attention over a picture, as PNG: the picture, one large map beside it, and small ones below.
 *
 * Each map has its own scale, from zero to its largest value, because queries differ in how much they give to the
 * picture at all. There are no labels: no font can be relied on.
 */
import sharp from "sharp";
import { UserError } from "../errors.js";
import { loadImage, type ImageSource, type RgbImage } from "./load-image.js";
import type { PatchMap } from "./patch-map.js";
import { resizeBicubic, resizeBicubicInTurns } from "./resize-bicubic.js";

export interface AttentionPicture {
  /** Drawn large, beside the picture. */
  readonly map: PatchMap;
  /** Drawn small, below, eight in a row, in their order; such as one for each query. Default: none. */
  readonly panels?: readonly PatchMap[] | undefined;
}

/** The longer side of the picture as it is drawn, in pixels. */
const largeSide = 384;
const margin = 12;
/** Small maps are a quarter as large; eight with these gaps are as wide as picture and large map. */
const panelsInRow = 8;
const gap = 4;
const background = 246;
/** The lines between patches are left out where they would be closer. */
const closestLines = 6;

/** Colours of the heat, from none to most, in equal steps. */
const heatStops: readonly (readonly [red: number, green: number, blue: number])[] = [
  [12, 16, 58],
  [72, 25, 120],
  [170, 41, 98],
  [236, 98, 46],
  [253, 187, 52],
  [255, 250, 190],
];

/** The bytes of a PNG file. Throws `UserError` if the picture cannot be read or a map is not one of its patches. */
export async function drawAttention(
  image: ImageSource,
  { map, panels = [] }: AttentionPicture,
): Promise<Uint8Array> {
  for (const each of [map, ...panels]) checkMap(each);
  const picture = await loadImage(image);
  const factor = largeSide / Math.max(picture.width, picture.height);
  const size = (part: number): { width: number; height: number } => ({
    width: Math.max(1, Math.floor(Math.round(picture.width * factor) / part)),
    height: Math.max(1, Math.floor(Math.round(picture.height * factor) / part)),
  });
  const large = await resizeBicubicInTurns(picture, size(1));
  const small = panels.length === 0 ? undefined : resizeBicubic(large, size(4));
  const rows = Math.ceil(panels.length / panelsInRow);
  const panelsTop = large.height + 2 * margin;
  // One pixel wide pictures make panels as narrow, whose row may be the wider one.
  const panelsWidth = small === undefined ? 0 : panelsInRow * small.width + (panelsInRow + 1) * gap;
  const sheet = blank(
    Math.max(3 * margin + 2 * large.width, panelsWidth),
    panelsTop + (small === undefined ? 0 : rows * (small.height + gap) + margin - gap),
  );
  place(sheet, large, margin, margin);
  place(sheet, heated(large, map), 2 * margin + large.width, margin);
  for (const [i, panel] of panels.entries()) {
    const [row, column] = [Math.floor(i / panelsInRow), i % panelsInRow];
    place(
      sheet,
      heated(small!, panel),
      gap + column * (small!.width + gap),
      panelsTop + row * (small!.height + gap),
    );
  }
  const { width, height, data } = sheet;
  const png = await sharp(data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
  return new Uint8Array(png);
}

function checkMap({ rows, columns, covered, values }: PatchMap): void {
  const isGrid = Number.isInteger(rows) && Number.isInteger(columns) && rows > 0 && columns > 0;
  if (!isGrid || values.length !== rows * columns || !(covered > 0 && covered <= 1)) {
    throw new UserError(
      `drawAttention: a map needs rows x columns values and covers more than 0 and at most all of the picture, ` +
        `got ${values.length} values for ${rows} x ${columns} patches that cover ${covered}`,
    );
  }
  if (!values.every((value) => Number.isFinite(value) && value >= 0)) {
    throw new UserError("drawAttention: the values of a map must be numbers of at least 0");
  }
}

/** The picture with the map over it, as large as the picture. */
function heated(picture: RgbImage, map: PatchMap): RgbImage {
  const { width, height } = picture;
  const covered = {
    width: Math.max(1, Math.round(width * map.covered)),
    height: Math.max(1, Math.round(height * map.covered)),
  };
  const heat = resizeBicubic(greyOf(map), covered);
  const result = picture.data.slice();
  const isLineColumn = linesAcross(covered.width, map.columns);
  const isLineRow = linesAcross(covered.height, map.rows);
  for (let y = 0; y < covered.height; y++) {
    for (let x = 0; x < covered.width; x++) {
      const value = heat.data[(y * covered.width + x) * 3]! / 255;
      const colour = heatColour(value);
      // What is looked at little shows the picture, darkened; what is looked at most shows mostly heat.
      const strength = 0.45 + 0.3 * value;
      const line = isLineColumn[x] === 1 || isLineRow[y] === 1 ? 0.82 : 1;
      const at = (y * width + x) * 3;
      for (let channel = 0; channel < 3; channel++) {
        const mixed = result[at + channel]! * (1 - strength) + colour[channel]! * strength;
        result[at + channel] = Math.round(mixed * line);
      }
    }
  }
  return { width, height, data: result };
}

/** The map as a grey picture of one pixel for each patch, its largest value white. */
function greyOf({ rows, columns, values }: PatchMap): RgbImage {
  const largest = values.reduce((a, b) => Math.max(a, b), 0);
  const data = new Uint8Array(rows * columns * 3);
  for (const [i, value] of values.entries()) {
    data.fill(largest === 0 ? 0 : Math.round((255 * value) / largest), i * 3, i * 3 + 3);
  }
  return { width: columns, height: rows, data };
}

/** Ones for the pixels at which a patch begins, but for the first. */
function linesAcross(length: number, patches: number): Uint8Array {
  const lines = new Uint8Array(length);
  if (length / patches < closestLines) return lines;
  for (let patch = 1; patch < patches; patch++) lines[Math.round((patch * length) / patches)] = 1;
  return lines;
}

/** value: 0 to 1. */
function heatColour(value: number): readonly [number, number, number] {
  const place = value * (heatStops.length - 1);
  const below = Math.min(Math.floor(place), heatStops.length - 2);
  const part = place - below;
  const mix = (channel: 0 | 1 | 2): number =>
    heatStops[below]![channel] * (1 - part) + heatStops[below + 1]![channel] * part;
  return [mix(0), mix(1), mix(2)];
}

function blank(width: number, height: number): RgbImage {
  return { width, height, data: new Uint8Array(width * height * 3).fill(background) };
}

function place(sheet: RgbImage, part: RgbImage, left: number, top: number): void {
  for (let row = 0; row < part.height; row++) {
    const line = part.data.subarray(row * part.width * 3, (row + 1) * part.width * 3);
    sheet.data.set(line, ((top + row) * sheet.width + left) * 3);
  }
}
