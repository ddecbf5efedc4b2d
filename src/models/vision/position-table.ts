/**
 * Learned positions of a vision transformer for another picture size: the grid of patch positions is resized,
 * the class position stays. Done once, on the table. The filter is PyTorch's bicubic (a = -0.75, four taps, no
 * antialiasing, borders repeated), not Pillow's, which pictures are resized with.
 */
import { InternalError } from "../../errors.js";
import { float32Tensor, type HostTensor } from "../../host-tensor.js";

/** Four source places and their weights for one place of the new axis. */
interface Taps {
  readonly places: readonly number[];
  readonly weights: readonly number[];
}

/** Keys' cubic convolution kernel. */
function cubic(distance: number): number {
  const a = -0.75;
  const x = Math.abs(distance);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

function tapsOf(from: number, to: number, alignCorners: boolean): Taps[] {
  // Places are rounded to float32 at every step, as PyTorch does: over a steep table the difference shows.
  const { fround } = Math;
  const step = alignCorners ? (to > 1 ? fround((from - 1) / (to - 1)) : 0) : fround(from / to);
  return Array.from({ length: to }, (_, i) => {
    const source = alignCorners ? fround(step * i) : fround(fround(step * (i + 0.5)) - 0.5);
    const first = Math.floor(source) - 1;
    const taps = [0, 1, 2, 3].map((k) => first + k);
    return {
      places: taps.map((place) => Math.min(from - 1, Math.max(0, place))),
      weights: taps.map((place) => cubic(source - place)),
    };
  });
}

/**
 * table: float32 [..., 1 + from^2, D], class position first -> [..., 1 + to^2, D].
 * @param alignCorners whether the outermost positions keep their places (LAVIS's CLIP), or the outer edges of the
 *   patches do (Hugging Face, LAVIS's EVA-CLIP).
 */
export function resizePositions(
  table: HostTensor,
  from: number,
  to: number,
  alignCorners: boolean,
): HostTensor {
  const width = table.dims.at(-1)!;
  if (!(table.data instanceof Float32Array) || table.data.length !== (1 + from * from) * width) {
    throw new InternalError(`position table: float32 with ${1 + from * from} rows is required`);
  }
  const { data } = table;
  const axis = tapsOf(from, to, alignCorners);
  const result = new Float32Array((1 + to * to) * width);
  result.set(data.subarray(0, width));
  for (const [y, rows] of axis.entries()) {
    for (const [x, columns] of axis.entries()) {
      const out = (1 + y * to + x) * width;
      for (let d = 0; d < width; d++) {
        let sum = 0;
        for (let i = 0; i < 4; i++) {
          let row = 0;
          for (let j = 0; j < 4; j++) {
            const place = 1 + rows.places[i]! * from + columns.places[j]!;
            row += columns.weights[j]! * data[place * width + d]!;
          }
          sum += rows.weights[i]! * row;
        }
        result[out + d] = sum;
      }
    }
  }
  return float32Tensor(result, [...table.dims.slice(0, -2), 1 + to * to, width]);
}
