import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { int4Block, Int4Matrix, Int8Matrix } from "../../src/checkpoints/quantise.js";

const finite = fc.float({ noNaN: true, noDefaultInfinity: true, min: -1000, max: 1000 });
const matrices = fc
  .tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 70 }))
  .chain(([n, k]) =>
    fc
      .array(finite, { minLength: n * k, maxLength: n * k })
      .map((values) => ({ n, k, rows: Float32Array.from(values) })),
  );

/** Adds the rows in two pieces where there are two. */
function addAll(matrix: Int8Matrix | Int4Matrix, rows: Float32Array, n: number, k: number): void {
  const half = Math.floor(n / 2) * k;
  if (half > 0) expect(matrix.add(rows.slice(0, half))).toBe(true);
  expect(matrix.add(rows.slice(half))).toBe(true);
}

describe("Int8Matrix", () => {
  it("is within half a step of every value, by columns", () => {
    fc.assert(
      fc.property(matrices, ({ n, k, rows }) => {
        const matrix = new Int8Matrix(n, k);
        addAll(matrix, rows, n, k);
        for (let row = 0; row < n; row++) {
          const scale = matrix.scales[row]!;
          const largest = Math.max(...rows.slice(row * k, (row + 1) * k).map(Math.abs));
          expect(scale).toBeCloseTo(largest / 127, 4);
          for (let i = 0; i < k; i++) {
            const error = Math.abs(matrix.values[i * n + row]! * scale - rows[row * k + i]!);
            expect(error).toBeLessThanOrEqual(0.5 * scale * 1.0001 + 1e-40);
          }
        }
      }),
      { seed: 1 },
    );
  });
});

describe("Int4Matrix", () => {
  it("is within half a step of every value, and one at the far end, block by block", () => {
    fc.assert(
      fc.property(matrices, ({ n, k, rows }) => {
        const matrix = new Int4Matrix(n, k);
        addAll(matrix, rows, n, k);
        for (let row = 0; row < n; row++) {
          for (let i = 0; i < k; i++) {
            const block = row * matrix.blocks + Math.floor(i / int4Block);
            const inBlock = i % int4Block;
            const byte = matrix.values[(block * int4Block + inBlock - (inBlock % 2)) / 2]!;
            const value = inBlock % 2 === 0 ? byte & 15 : byte >> 4;
            const scale = matrix.scales[block]!;
            const exact = rows[row * k + i]!;
            const error = Math.abs(scale * (value - 8) - exact);
            // Fifteen steps hold seven on one side: there the last half step is missing.
            const step = Math.abs(scale) * (value === 15 ? 1 : 0.5);
            expect(error).toBeLessThanOrEqual(step * 1.0001 + 1e-40);
          }
        }
      }),
      { seed: 1 },
    );
  });

  it("keeps the value furthest from zero", () => {
    const matrix = new Int4Matrix(1, 4);
    matrix.add(Float32Array.of(0.5, -2, 1, 3));
    const [scale] = matrix.scales;
    expect(scale! * ((matrix.values[1]! >> 4) - 8)).toBe(3);
  });
});

it.each([NaN, Infinity, -Infinity])("refuses %d", (value) => {
  const rows = Float32Array.of(1, 2, value, 3);
  expect(new Int8Matrix(2, 2).add(rows)).toBe(false);
  expect(new Int4Matrix(2, 2).add(rows)).toBe(false);
});
