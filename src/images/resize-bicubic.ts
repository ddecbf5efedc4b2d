/**
 * Pillow's antialiased bicubic resize, bit for bit, for 8-bit RGB. A shrinking axis averages over a window that widens with the scale.
 * Along each axis the weights are fixed-point numbers and the result is rounded to 8 bits. The horizontal pass comes first, as in every
 * Pillow, but since 13 not for pictures whose height shrinks by more than twice as much as their width: the order moves single
 * values by a step or a few.
 */
import { InternalError } from "../errors.js";
import { type RgbImage } from "./load-image.js";

/** Pillow keeps 8 bits for the value and 2 as a guard against overflow of its 32-bit sums. */
const fractionBits = 32 - 8 - 2;

interface Size {
  readonly width: number;
  readonly height: number;
}

/** Resizes to exactly `size` (the aspect ratio is not kept). */
export function resizeBicubic(image: RgbImage, size: Size): RgbImage {
  const steps = resizeSteps(image, size);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}

/** The same, leaving the thread to others every few milliseconds: a large photo takes a large part of a second. */
export async function resizeBicubicInTurns(image: RgbImage, size: Size): Promise<RgbImage> {
  const steps = resizeSteps(image, size);
  let turnEnds = performance.now() + turn;
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
    if (performance.now() < turnEnds) continue;
    await new Promise((resolve) => setTimeout(resolve));
    turnEnds = performance.now() + turn;
  }
}

const turn = 4; // ms
/** Multiplications between two yields: about a millisecond. */
const stepWork = 1e6;

function* resizeSteps(image: RgbImage, { width, height }: Size): Generator<undefined, RgbImage, void> {
  if (!(Number.isSafeInteger(width) && Number.isSafeInteger(height) && width > 0 && height > 0)) {
    throw new InternalError(`resizeBicubic: a size in whole pixels is required, got ${width} x ${height}`);
  }
  let { data } = image;
  // The width of the rows as they are now.
  let columns = image.width;
  const alongRows = function* (): Generator<undefined, void, void> {
    if (width === columns) return;
    const lines = data.length / (3 * columns);
    const axis = windows(columns, width);
    const result = new Uint8ClampedArray(lines * width * 3);
    const rows = Math.ceil(stepWork / (width * axis.stride * 3));
    for (let row = 0; row < lines; row += rows) {
      resizeRows(data, columns, axis, result, row, Math.min(lines, row + rows));
      yield;
    }
    data = new Uint8Array(result.buffer);
    columns = width;
  };
  const alongColumns = function* (): Generator<undefined, void, void> {
    if (height === image.height) return;
    const axis = windows(image.height, height);
    const result = new Uint8ClampedArray(height * columns * 3);
    const rows = Math.ceil(stepWork / (columns * axis.stride * 3));
    for (let row = 0; row < height; row += rows) {
      resizeColumns(data, columns, axis, result, row, Math.min(height, row + rows));
      yield;
    }
    data = new Uint8Array(result.buffer);
  };
  const columnsFirst = image.height > height && image.height - height > 2 * (image.width - width);
  yield* columnsFirst ? alongColumns() : alongRows();
  yield* columnsFirst ? alongRows() : alongColumns();
  return { width, height, data: data === image.data ? data.slice() : data };
}

/** For each output position: the first input position, how many, and their fixed-point weights. */
interface Windows {
  readonly count: number;
  readonly first: Int32Array;
  readonly taps: Int32Array;
  /** Weights of output `i` start at `i * stride`. */
  readonly weights: Int32Array;
  readonly stride: number;
}

function windows(from: number, to: number): Windows {
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  const support = 2 * filterScale;
  const perStep = 1 / filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(to);
  const taps = new Int32Array(to);
  const weights = new Int32Array(to * stride);
  const exact = new Float64Array(stride);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(from, Math.trunc(centre + support + 0.5)) - start;
    let sum = 0;
    for (let k = 0; k < count; k++) {
      exact[k] = cubic((k + start - centre + 0.5) * perStep);
      sum += exact[k]!;
    }
    for (let k = 0; k < count; k++) {
      const scaled = (exact[k]! / sum) * 2 ** fractionBits;
      weights[i * stride + k] = Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    }
    first[i] = start;
    taps[i] = count;
  }
  return { count: to, first, taps, weights, stride };
}

/** Keys' cubic convolution kernel with a = -0.5. */
function cubic(distance: number): number {
  const a = -0.5;
  const x = Math.abs(distance);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

const half = 1 << (fractionBits - 1);

/** Rows `from` to `to` of `result`, whose rows are those of the picture. */
function resizeRows(
  data: Uint8Array,
  width: number,
  { count, first, taps, weights, stride }: Windows,
  result: Uint8ClampedArray,
  from: number,
  to: number,
): void {
  for (let row = from; row < to; row++) {
    let out = row * count * 3;
    for (let i = 0; i < count; i++) {
      let red = half;
      let green = half;
      let blue = half;
      let at = (row * width + first[i]!) * 3;
      const begin = i * stride;
      const end = begin + taps[i]!;
      for (let k = begin; k < end; k++, at += 3) {
        const weight = weights[k]!;
        red = (red + Math.imul(data[at]!, weight)) | 0;
        green = (green + Math.imul(data[at + 1]!, weight)) | 0;
        blue = (blue + Math.imul(data[at + 2]!, weight)) | 0;
      }
      result[out++] = red >> fractionBits;
      result[out++] = green >> fractionBits;
      result[out++] = blue >> fractionBits;
    }
  }
}

/** Rows `from` to `to` of `result`. */
function resizeColumns(
  data: Uint8Array,
  width: number,
  { first, taps, weights, stride }: Windows,
  result: Uint8ClampedArray,
  from: number,
  to: number,
): void {
  const rowLength = width * 3;
  // Whole rows are summed one after the other, so that memory is read in order.
  const sums = new Int32Array(rowLength);
  for (let i = from; i < to; i++) {
    sums.fill(half);
    for (let k = 0; k < taps[i]!; k++) {
      const weight = weights[i * stride + k]!;
      const at = (first[i]! + k) * rowLength;
      for (let x = 0; x < rowLength; x++) sums[x] = sums[x]! + Math.imul(data[at + x]!, weight);
    }
    const out = i * rowLength;
    for (let x = 0; x < rowLength; x++) result[out + x] = sums[x]! >> fractionBits;
  }
}
