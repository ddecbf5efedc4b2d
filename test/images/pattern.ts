/** The same picture as `pattern` in reference/images.py. */
import type { RgbImage } from "../../src/images/load-image.js";

export function pattern(width: number, height: number): RgbImage {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++, i++) {
        const edge = ((x >> 3) + (y >> 2) + c) % 3;
        const wave = (x * x * 3 + y * y * 5 + x * y * (c + 1)) >> 4;
        const noise = ((x * 7919 + y * 104729 + c * 1299709) >> 3) * 31;
        data[i] = edge === 0 ? wave : edge === 1 ? noise : 255 * ((x + y) & 1);
      }
    }
  }
  return { width, height, data };
}
