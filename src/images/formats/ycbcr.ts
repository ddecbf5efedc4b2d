/**
 * YCbCr to RGB in whole numbers, as Pillow does it for plain TIFF files (BT.601 with 6 bits of fraction), and as libtiff does it for
 * compressed ones (16 bits of fraction, with the file's own coefficients and ranges). The two differ by one step here and there.
 */
export interface YcbcrTables {
  readonly luma: Int32Array;
  readonly redOfCr: Int32Array;
  readonly greenOfCb: Int32Array;
  readonly greenOfCr: Int32Array;
  readonly blueOfCb: Int32Array;
  readonly fraction: number;
}

export function ycbcrTables(
  plain: boolean,
  coefficients: readonly number[] | undefined,
  ranges: readonly number[] | undefined,
): YcbcrTables {
  const table = (value: (i: number) => number): Int32Array =>
    Int32Array.from({ length: 256 }, (_, i) => value(i));
  if (plain) {
    // The red and blue parts keep their fraction until a shift, as the green one does.
    const part = (factor: number) => table((i) => Math.trunc(factor * (i - 128) * 64 + 0.5));
    return {
      luma: table((i) => i),
      redOfCr: part(1.402).map((value) => value >> 6),
      greenOfCb: part(-0.34414),
      greenOfCr: part(-0.71414),
      blueOfCb: part(1.772).map((value) => value >> 6),
      fraction: 6,
    };
  }
  const single = Math.fround;
  const [red = 0.299, green = 0.587, blue = 0.114] = (coefficients ?? []).map(single);
  const [black = 0, white = 255, cbZero = 128, cbMost = 255, crZero = 128, crMost = 255] = (ranges ?? []).map(
    single,
  );
  const fixed = (value: number): number => Math.trunc(single(value) * 65536 + 0.5);
  const [redPart, bluePart] = [single(2 - single(2 * single(red))), single(2 - single(2 * single(blue)))];
  const toRed = fixed(redPart);
  const toBlue = fixed(bluePart);
  const greenOfCr = -fixed(single(single(redPart * single(red)) / single(green)));
  const greenOfCb = -fixed(single(single(bluePart * single(blue)) / single(green)));
  // A code as a value of the full range.
  const spread = (code: number, zero: number, most: number, full: number): number => {
    const range = most - zero === 0 ? 1 : most - zero;
    const value = single(single((code - Math.trunc(zero)) * full) / single(range));
    return Math.trunc(Math.min(4096, Math.max(-4096, value)));
  };
  const cb = (i: number): number => spread(i - 128, cbZero - 128, cbMost - 128, 127);
  const cr = (i: number): number => spread(i - 128, crZero - 128, crMost - 128, 127);
  const half = 1 << 15;
  return {
    luma: table((i) => spread(i, black, white, 255)),
    redOfCr: table((i) => (Math.imul(toRed, cr(i)) + half) >> 16),
    greenOfCb: table((i) => Math.imul(greenOfCb, cb(i)) + half),
    greenOfCr: table((i) => Math.imul(greenOfCr, cr(i))),
    blueOfCb: table((i) => (Math.imul(toBlue, cb(i)) + half) >> 16),
    fraction: 16,
  };
}

/** One pixel, written at `to`. */
export function ycbcrPixel(
  { luma, redOfCr, greenOfCb, greenOfCr, blueOfCb, fraction }: YcbcrTables,
  y: number,
  cb: number,
  cr: number,
  rgb: Uint8Array,
  to: number,
): void {
  const light = luma[y]!;
  rgb[to] = clip(light + redOfCr[cr]!);
  rgb[to + 1] = clip(light + ((greenOfCb[cb]! + greenOfCr[cr]!) >> fraction));
  rgb[to + 2] = clip(light + blueOfCb[cb]!);
}

function clip(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}
