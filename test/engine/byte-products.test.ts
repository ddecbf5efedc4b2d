import { afterAll, describe, expect, it } from "vitest";
import { Int8Matrix } from "../../src/checkpoints/quantise.js";
import { probeByteProducts, type Multiply } from "../../src/engine/byte-products.js";
import { emit, frozen, input, ops, type ByteProducts } from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import { UserError } from "../../src/errors.js";
import { float32Tensor, type HostTensor, type QuantisedMatrix } from "../../src/host-tensor.js";

const devices = {
  own: openDevice({ threads: 1 }),
  unsigned: openDevice({ threads: 1, byteProducts: "unsigned" }),
};
afterAll(async () => {
  for (const device of Object.values(devices)) await device.close();
});

type Sum = (left: readonly number[], right: readonly number[]) => number;

const exact: Sum = (left, right) => left.reduce((sum, value, i) => sum + value * right[i]!, 0);

/** As x86 without VNNI: each two products are added in 16 bits. */
const saturating: Sum = (left, right) => {
  let sum = 0;
  for (let i = 0; i < left.length; i += 2) {
    const pair = left[i]! * right[i]! + left[i + 1]! * right[i + 1]!;
    sum += Math.max(-32768, Math.min(32767, pair));
  }
  return sum;
};

/** A processor that adds up in these ways. */
const processor =
  (sums: Readonly<Record<ByteProducts, Sum>>): Multiply =>
  (products, _outputs, { dims: [m, k], data }, { dims: [n], values, scales }) => {
    const shift = products === "unsigned" ? 128 : 0;
    const held = (values as HostTensor).data as Int8Array;
    const y: number[] = [];
    for (let row = 0; row < m!; row++) {
      const x = [...(data as Float32Array).subarray(row * k!, (row + 1) * k!)];
      const step = Math.max(...x.map(Math.abs)) / 127;
      const left = x.map((value) => Math.round(value / step) + 128);
      for (let column = 0; column < n; column++) {
        const right = x.map((_, i) => held[i * n + column]! + shift);
        // The zero points are taken out afterwards, in 32 bits.
        const raw = sums[products](left, right);
        const offset = right.reduce((sum, value) => sum + 128 * value, 0);
        const other = left.reduce((sum, value) => sum + shift * (value - 128), 0);
        y.push((raw - offset - other) * step * Number((scales as HostTensor).data[column]));
      }
    }
    return Promise.resolve(y);
  };

describe("the probe", () => {
  it("knows saturation: 64 products of 255 and 127", () => {
    const [left, right] = [Array<number>(64).fill(255), Array<number>(64).fill(127)];
    expect(exact(left, right)).toBe(2_072_640);
    expect(saturating(left, right)).toBe(1_048_544);
  });

  it("leaves weights signed where that is exact", async () => {
    expect(await probeByteProducts(processor({ signed: exact, unsigned: exact }))).toBe("signed");
    expect(await probeByteProducts(processor({ signed: exact, unsigned: saturating }))).toBe("signed");
  });

  it("shifts them where signed ones saturate", async () => {
    expect(await probeByteProducts(processor({ signed: saturating, unsigned: exact }))).toBe("unsigned");
  });

  it("sees saturation that only single rows, only several, only positive or only negative sums have", async () => {
    const partly =
      (wrong: (rows: number, value: number) => boolean): Multiply =>
      async (products, outputs, x, w) => {
        const right = await processor({ signed: exact, unsigned: exact })(products, outputs, x, w);
        if (products === "unsigned") return right;
        return Array.from(right, (value) => (wrong(x.dims[0]!, Number(value)) ? 8160 : Number(value)));
      };
    for (const wrong of [
      (rows: number) => rows === 1,
      (rows: number) => rows > 1,
      (_: number, value: number) => value > 0,
      (_: number, value: number) => value < 0,
    ]) {
      expect(await probeByteProducts(partly(wrong))).toBe("unsigned");
    }
  });

  it("refuses a processor on which no form is exact", async () => {
    const broken = probeByteProducts(processor({ signed: saturating, unsigned: saturating }));
    await expect(broken).rejects.toThrow(UserError);
    await expect(broken).rejects.toThrow(/use the precision fp32/);
  });

  it("finds a form that is exact on this processor, and asks once", async () => {
    const found = await devices.own.byteProducts();
    expect(["signed", "unsigned"]).toContain(found);
    await using other = openDevice({ threads: 1 });
    expect(await other.byteProducts()).toBe(found);
    expect(await devices.unsigned.byteProducts()).toBe("unsigned");
  });
});

/** Values as large as they may be, so that saturation would show. */
function extremes(n: number, k: number): QuantisedMatrix {
  const matrix = new Int8Matrix(n, k);
  matrix.add(
    Float32Array.from({ length: n * k }, (_, i) => ((i * 7) % 5 < 3 ? 1 : -0.9) * (1 + (i % 3) / 9)),
  );
  return {
    quantised: "int8",
    dims: [n, k],
    values: { dtype: "int8", dims: [k, n], data: matrix.values },
    scales: float32Tensor(matrix.scales, [n]),
  };
}

describe("products with shifted weights", () => {
  it.each([
    [1, 64, 32],
    [1, 33, 5],
    [7, 100, 40],
    [40, 256, 96],
  ])("of %i rows of %i and %i outputs are those of whole numbers", async (m, k, n) => {
    const w = extremes(n, k);
    const x = float32Tensor(
      Float32Array.from({ length: m * k }, (_, i) => (i % 4 === 3 ? -1 : 1) * (0.9 + (i % 10) / 100)),
      [m, k],
    );
    const y = ops.linear(input("x", "float32", ["M", k]), frozen("w", [n, k]));
    const weights = new Map([["w", w]]);
    const right = await processor({ signed: exact, unsigned: exact })("signed", { y }, x, w);
    for (const device of Object.values(devices)) {
      const program = await device.compile({ y }, { weights });
      const found = (await program.run({ x }))["y"]!;
      expect(found.dims).toEqual([m, n]);
      const largest = Math.max(...Array.from(right, (value) => Math.abs(Number(value))));
      for (let i = 0; i < m * n; i++) {
        expect(Math.abs(Number(found.data[i]) - Number(right[i]))).toBeLessThan(1e-5 * largest);
      }
    }
  });

  it("read the tensors of the other form, which are not copied for it", () => {
    const y = ops.linear(input("x", "float32", ["M", 64]), frozen("w", [32, 64]));
    const weights = new Map([["w", extremes(32, 64)]]);
    const [signed, unsigned] = (["signed", "unsigned"] as const).map((form) =>
      emit({ y }, weights, undefined, undefined, form),
    );
    expect(signed!.nodeTypes).not.toContain("BitwiseXor");
    expect(unsigned!.nodeTypes.filter((type) => type === "BitwiseXor")).toHaveLength(1);
    expect(Math.abs(unsigned!.bytes.length - signed!.bytes.length)).toBeLessThan(200);
  });
});
