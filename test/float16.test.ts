import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bfloatToFloat32, float32ToHalf, halfToFloat32, toFloat16, toFloat32 } from "../src/float16.js";
import { float32Tensor, int64Tensor } from "../src/host-tensor.js";

const everyPattern = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

/** The definition of the format, in float64. */
function halfByDefinition(bits: number): number {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

describe("float16", () => {
  it("gives every bit pattern its value and takes each back", () => {
    const values = halfToFloat32(everyPattern);
    const { halves, overflow } = float32ToHalf(values);
    expect(overflow).toBe(-1);
    for (let bits = 0; bits < 65536; bits++) {
      const expected = halfByDefinition(bits);
      if (!Object.is(values[bits], expected)) throw new Error(`${bits}: ${values[bits]} is not ${expected}`);
      // NaNs become quiet ones.
      const back = Number.isNaN(expected) ? bits | 0x200 : bits;
      if (halves[bits] !== back) throw new Error(`${bits} came back as ${halves[bits]}`);
    }
  });

  it("rounds to the nearest, ties to even, between all neighbours", () => {
    for (let bits = 0; bits < 0x7bff; bits++) {
      const low = halfByDefinition(bits);
      const high = halfByDefinition(bits + 1);
      const middle = (low + high) / 2;
      const below = middle - middle * 2 ** -24;
      const above = middle + middle * 2 ** -23;
      const { halves } = float32ToHalf(Float32Array.of(middle, below, above, -middle));
      const even = bits + (bits & 1);
      if (
        halves[0] !== even ||
        halves[1] !== bits ||
        halves[2] !== bits + 1 ||
        halves[3] !== (even | 0x8000)
      ) {
        throw new Error(`between ${low} and ${high}: ${[...halves].join(", ")}`);
      }
    }
  });

  it("rounds any float32 to a nearest half", () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, min: -65519, max: 65519 }), (value) => {
        const { halves, overflow } = float32ToHalf(Float32Array.of(value));
        const got = halfByDefinition(halves[0]!);
        const error = Math.abs(got - value);
        expect(overflow).toBe(-1);
        for (const neighbour of [halves[0]! - 1, halves[0]! + 1]) {
          const other = halfByDefinition(neighbour & 0xffff);
          if (Number.isFinite(other)) expect(Math.abs(other - value)).toBeGreaterThanOrEqual(error);
        }
      }),
      { numRuns: 500 },
    );
  });

  it("names the tensor whose value does not fit", () => {
    expect(float32ToHalf(Float32Array.of(65519, 65520)).overflow).toBe(1);
    expect(float32ToHalf(Float32Array.of(Infinity, -Infinity)).overflow).toBe(-1);
    expect(() => toFloat16(float32Tensor([1, 70000], [2]), "fc1.weight")).toThrow(
      "tensor fc1.weight: element 1 is 70000, but float16 ends at 65504; store this model as float32",
    );
  });
});

describe("bfloat16", () => {
  it("is the upper half of a float32", () => {
    const values = bfloatToFloat32(everyPattern);
    const bits = new Uint32Array(values.buffer);
    expect(everyPattern.every((pattern, i) => bits[i] === pattern * 65536)).toBe(true);
    expect([...bfloatToFloat32(Uint16Array.of(0x3f80, 0xc000, 0x7f80))]).toEqual([1, -2, Infinity]);
  });
});

describe("toFloat32", () => {
  it("converts float tensors only", () => {
    const one = float32Tensor([1], [1]);
    expect(toFloat32(one)).toBe(one);
    expect(toFloat32({ dtype: "float16", dims: [1], data: Uint16Array.of(0x3c00) })).toEqual(one);
    expect(() => toFloat32(int64Tensor([1], [1]))).toThrow(
      "toFloat32: a float tensor is required, got int64 [1]",
    );
  });
});
