import { afterAll, describe, expect, it } from "vitest";
import { Int4Matrix, int4Block, Int8Matrix } from "../../src/checkpoints/quantise.js";
import { toFloat16 } from "../../src/float16.js";
import { emit, frozen, gradients, input, ops } from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import {
  float32Tensor,
  int64Tensor,
  type FrozenValue,
  type HostTensor,
  type QuantisedMatrix,
} from "../../src/host-tensor.js";

const device = openDevice({ threads: 1 });
afterAll(() => device.close());

const wave = (count: number, step: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(i * step) + 0.3 * Math.cos(i * i * step));

function int8(values: Float32Array, n: number, k: number): QuantisedMatrix {
  const matrix = new Int8Matrix(n, k);
  matrix.add(values);
  return {
    quantised: "int8",
    dims: [n, k],
    values: { dtype: "int8", dims: [k, n], data: matrix.values },
    scales: float32Tensor(matrix.scales, [n]),
  };
}

function int4(values: Float32Array, n: number, k: number): QuantisedMatrix {
  const matrix = new Int4Matrix(n, k);
  matrix.add(values);
  return {
    quantised: "int4",
    dims: [n, k],
    values: { dtype: "uint8", dims: [n, matrix.blocks, int4Block / 2], data: matrix.values },
    scales: float32Tensor(matrix.scales, [n, matrix.blocks]),
  };
}

/** The matrix that the record stands for, [N, K]. */
function widened({ quantised, dims: [n, k], values, scales }: QuantisedMatrix): Float32Array {
  const [held, steps] = [(values as HostTensor).data, (scales as HostTensor).data] as [
    Uint8Array,
    Float32Array,
  ];
  const blocks = Math.ceil(k / int4Block);
  return Float32Array.from({ length: n * k }, (_, at) => {
    const [row, i] = [Math.floor(at / k), at % k];
    if (quantised === "int8") return held[i * n + row]! * steps[row]!;
    const byte = held[(row * blocks * int4Block + i - (i % 2)) / 2]!;
    return ((i % 2 === 0 ? byte & 15 : byte >> 4) - 8) * steps[row * blocks + Math.floor(i / int4Block)]!;
  });
}

function rootMeanSquare(values: Iterable<number>): number {
  const all = [...values];
  return Math.sqrt(all.reduce((sum, value) => sum + value * value, 0) / all.length);
}

const makers = { int8, int4 };
const sizes = [
  [1, 16, 24],
  [5, 64, 16],
  [3, 100, 7],
  [2, 33, 40],
] as const;

describe.each(["int8", "int4"] as const)("%s", (form) => {
  it.each(sizes)("multiplies %i rows of %i by the rounded matrix of %i outputs", async (m, k, n) => {
    const record = makers[form](wave(n * k, 0.7), n, k);
    const bias = wave(n, 0.9);
    const x = float32Tensor(wave(m * k, 0.31), [m, k]);
    const y = ops.linear(input("x", "float32", ["M", k]), frozen("w", [n, k]), frozen("b", [n]));
    const product = async (w: FrozenValue): Promise<Float32Array> => {
      const weights = new Map([
        ["w", w],
        ["b", float32Tensor(bias, [n])],
      ]);
      const program = await device.compile({ y }, { weights });
      return (await program.run({ x }))["y"]!.data as Float32Array;
    };
    const ours = await product(record);
    const theirs = await product(float32Tensor(widened(record), [n, k]));
    // What is left is the rounding of x to 8 bits: half a step is 1/254 of the largest value of a row (or block).
    const size = rootMeanSquare(theirs.map((value, i) => value - bias[i % n]!));
    expect(rootMeanSquare(ours.map((value, i) => value - theirs[i]!))).toBeLessThan(0.02 * size);
  });

  it("keeps rows of zeros, and rows of very different size apart", async () => {
    const [n, k] = [8, 32];
    const record = makers[form](wave(n * k, 0.7), n, k);
    const y = ops.linear(input("x", "float32", ["M", k]), frozen("w", [n, k]));
    const row = wave(k, 0.3);
    const x = float32Tensor([...new Float32Array(k), ...row.map((value) => 1e4 * value), ...row], [3, k]);
    const program = await device.compile({ y }, { weights: new Map([["w", record]]) });
    const rows = (await program.run({ x }))["y"]!.data as Float32Array;
    expect([...rows.subarray(0, n)]).toEqual(Array<number>(n).fill(0));
    for (let i = 0; i < n; i++) expect(rows[n + i]! / rows[2 * n + i]!).toBeCloseTo(1e4, -1);
  });

  it("has no gradient, and says so", () => {
    const record = makers[form](wave(64, 0.7), 4, 16);
    const x = input("x", "float32", [3, 16]);
    const w = frozen("layer.weight", [4, 16]);
    const loss = ops.reduceMean(ops.linear(x, w));
    expect(() => emit({ g: gradients(loss, [x])[0]! }, new Map([["layer.weight", record]]))).toThrow(
      /layer.weight is held as .*, which serves x W\^T only: neither gradients/,
    );
  });

  it("looks rows up in the table beside the record", async () => {
    const values = wave(6 * 16, 0.7);
    const table = toFloat16(float32Tensor(values, [6, 16]), "w");
    const w = frozen("w", [6, 16]);
    const x = ops.gatherRows(w, input("ids", "int64", ["T"]));
    const weights = new Map([["w", { ...makers[form](values, 6, 16), table }]]);
    const { nodeTypes } = emit({ y: ops.linear(x, w), x }, weights);
    expect(nodeTypes.filter((type) => type === "Gemm")).toEqual([]);
    const program = await device.compile({ y: ops.linear(x, w), x }, { weights });
    const out = await program.run({ ids: int64Tensor([4, 1], [2]) });
    for (let i = 0; i < 16; i++) expect(out["x"]!.data[i]).toBeCloseTo(values[4 * 16 + i]!, 2);
    expect(out["y"]!.dims).toEqual([2, 6]);
  });
});

it("widens only the rows that are looked up in a float16 table", () => {
  const table = toFloat16(float32Tensor(wave(64, 0.7), [4, 16]), "w");
  const x = ops.gatherRows(frozen("w", [4, 16]), input("ids", "int64", ["T"]));
  expect(emit({ x }, new Map([["w", table]])).nodeTypes).toEqual(["Gather", "Cast"]);
});
