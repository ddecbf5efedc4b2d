/** What is taken on, checked against a file's header before anything is decoded: a file of a few bytes can claim any size. */
import { stopIf } from "../../errors.js";
import { damaged, tooLarge } from "./refusal.js";

/** Pixels of a picture. In memory three bytes each, and as many again for a moment. */
export const maximumPixels = 100_000_000;
/** Pixels of one side: what JPEG, GIF and most programs can say. */
export const maximumSide = 65_535;
/** Bytes of a file, which lies in memory as a whole. */
export const maximumBytes = 200_000_000;
/** Fewer pixels where a decoder takes more memory, so that no picture takes a gigabyte: AVIF, 18 bytes a pixel here. */
export const maximumAvifPixels = 30_000_000;
/** Samples of a progressive JPEG, which libjpeg holds at two bytes until the last scan. */
export const maximumProgressiveSamples = 180_000_000;

/** Throws `PictureRefusal` unless a picture of this size may be decoded. */
export function checkSize(width: number, height: number, most = maximumPixels): void {
  if (!(width > 0 && height > 0)) throw damaged(`its header says ${width} x ${height} pixels`);
  if (width * height > most) {
    throw tooLarge(
      `the picture has ${width} x ${height} pixels, at most ${most} are decoded; shrink it first`,
    );
  }
  if (Math.max(width, height) > maximumSide) {
    throw tooLarge(
      `the picture has ${width} x ${height} pixels, at most ${maximumSide} a side are decoded; cut it first`,
    );
  }
}

/** Leaves the thread to others every few milliseconds, and is where a decoder of ours can be stopped. */
export class Turns {
  private ends = performance.now() + turn;

  constructor(readonly signal: AbortSignal | undefined) {}

  async next(): Promise<void> {
    if (performance.now() < this.ends) return;
    await new Promise((resolve) => setTimeout(resolve));
    stopIf(this.signal);
    this.ends = performance.now() + turn;
  }
}

const turn = 8; // ms
