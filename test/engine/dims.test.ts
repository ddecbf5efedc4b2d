/** The algebra of dimensions, and what the builders say about shapes that do not fit. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  addDims,
  broadcastShapes,
  dimension,
  evaluateDim,
  expectShape,
  input,
  multiplyDims,
  ops,
  parameter,
  subtractDims,
  type Dim,
} from "../../src/engine/index.js";

const leaf = fc.oneof(fc.integer({ min: -9, max: 9 }), fc.constantFrom<Dim[]>("B", "T", "P", "long_name2"));
const dims: fc.Arbitrary<Dim> = fc.letrec<{ dim: Dim }>((tie) => ({
  dim: fc.oneof(
    { maxDepth: 3 },
    leaf,
    fc.tuple(tie("dim"), tie("dim")).map(([a, b]) => addDims(a, b)),
    fc.tuple(tie("dim"), tie("dim")).map(([a, b]) => multiplyDims(a, b)),
    fc.tuple(tie("dim"), tie("dim")).map(([a, b]) => subtractDims(a, b)),
  ),
})).dim;
const sizes = fc.record({
  B: fc.integer({ min: 0, max: 7 }),
  T: fc.integer({ min: 0, max: 7 }),
  P: fc.integer({ min: 0, max: 7 }),
  long_name2: fc.integer({ min: 0, max: 7 }),
});

describe("dimensions", () => {
  test("are a commutative ring with one spelling per value", () => {
    fc.assert(
      fc.property(dims, dims, dims, (a, b, c) => {
        expect(addDims(a, b)).toBe(addDims(b, a));
        expect(multiplyDims(a, b)).toBe(multiplyDims(b, a));
        expect(addDims(addDims(a, b), c)).toBe(addDims(a, addDims(b, c)));
        expect(multiplyDims(multiplyDims(a, b), c)).toBe(multiplyDims(a, multiplyDims(b, c)));
        expect(multiplyDims(a, addDims(b, c))).toBe(addDims(multiplyDims(a, b), multiplyDims(a, c)));
        expect(addDims(a, 0)).toBe(a);
        expect(multiplyDims(a, 1)).toBe(a);
        expect(multiplyDims(a, 0)).toBe(0);
        expect(subtractDims(a, a)).toBe(0);
        expect(addDims(subtractDims(a, b), b)).toBe(a);
        expect(dimension(a)).toBe(a);
      }),
    );
  });

  test("evaluate as their parts do", () => {
    fc.assert(
      fc.property(dims, dims, sizes, (a, b, bound) => {
        const value = (dim: Dim): number => evaluateDim(dim, bound);
        expect(value(addDims(a, b))).toBe(value(a) + value(b));
        expect(value(multiplyDims(a, b))).toBe(value(a) * value(b) + 0);
        expect(value(subtractDims(a, b))).toBe(value(a) - value(b));
      }),
    );
  });

  test("have a spelling that people can read", () => {
    expect(dimension("T+P")).toBe("P+T");
    expect(multiplyDims("T", "B", 2)).toBe("2*B*T");
    expect(multiplyDims(addDims("T", 1), addDims("T", -1))).toBe("T*T+-1");
    expect(dimension("3")).toBe(3);
    expect(() => dimension("T-1")).toThrow('dimension "T-1": "T-1" is neither a name nor a whole number');
    expect(() => evaluateDim("B*T", { B: 2 })).toThrow('dimension "B*T": "T" has no value');
  });
});

describe("shapes", () => {
  test("broadcast as numpy does", () => {
    expect(broadcastShapes("here", ["B", 1, 4], ["T", 1], [])).toEqual(["B", "T", 4]);
    expect(() => broadcastShapes("here", ["B", 3], [4])).toThrow(
      "here: shapes [B, 3] and [4] do not broadcast",
    );
    expect(() => broadcastShapes("here", ["B"], ["T"])).toThrow("here: shapes [B] and [T] do not broadcast");
  });

  test("expectShape binds names once and says what it wanted", () => {
    const x = input("x", "float32", ["B", "T", 8]);
    const bound: Record<string, Dim> = {};
    expectShape("here", x, "B T D", bound);
    expect(bound).toEqual({ B: "B", T: "T", D: 8 });
    expectShape("here", x, "B T 8", bound);
    expect(() => expectShape("attention", x, "B D T", bound)).toThrow(
      "attention: required [B=B, D=8, T=T], got [B, T, 8]",
    );
    expect(() => expectShape("attention", x, "B S 8 H", { B: "B" })).toThrow(
      "attention: required [B=B, S=?, 8, H=?], got [B, T, 8]",
    );
    expect(() => expectShape("attention", x, "B T 9")).toThrow(
      "attention: required [B=B, T=T, 9], got [B, T, 8]",
    );
  });
});

describe("builders refuse at build time", () => {
  const x = input("x", "float32", ["B", "T", 8]);
  const ids = input("ids", "int64", ["B", "T"]);
  const w = parameter("w", [4, 7]);
  const refused: readonly (readonly [string, () => unknown, string])[] = [
    [
      "add of shapes",
      () => ops.add(x, parameter("v", [7])),
      "add: shapes [B, T, 8] and [7] do not broadcast",
    ],
    ["add of types", () => ops.add(x, ids), "add: element types float32 and int64 differ"],
    [
      "where",
      () => ops.where(ops.less(ids, ids), x, 0),
      "where: shapes [B, T] and [B, T, 8] and [] do not broadcast",
    ],
    ["and of floats", () => ops.and(x, x), "and: needs bool tensors, got input float32[B, T, 8] and"],
    ["gemm of three axes", () => ops.gemm(x, w), "gemm: needs two matrices"],
    ["gemm sizes", () => ops.gemm(w, w), "gemm: inner sizes 7 and 4 differ for [4, 7] and [4, 7]"],
    [
      "gemm bias",
      () => ops.gemm(w, w, { transB: true }, parameter("b", [3])),
      "gemm: bias must be [4], got [3]",
    ],
    ["linear", () => ops.linear(x, w), "gemm: inner sizes 8 and 7 differ"],
    [
      "matmul sizes",
      () => ops.matmul(x, x),
      "matmul: inner sizes 8 and T differ for [B, T, 8] and [B, T, 8]",
    ],
    ["matmul of a vector", () => ops.matmul(parameter("v", [8]), x), "matmul: needs at least two axes"],
    [
      "layerNorm",
      () => ops.layerNorm(x, w, w, 1e-5),
      "layerNorm: weights must be [8] for [B, T, 8], got [4, 7]",
    ],
    ["reshape", () => ops.reshape(x, ["B", 8]), "reshape: [B, T, 8] does not hold as many values as [B, 8]"],
    [
      "transpose",
      () => ops.transpose(x, [0, 0, 1]),
      "transpose: [0, 0, 1] does not permute the axes of [B, T, 8]",
    ],
    ["expand", () => ops.expand(x, ["B", 1, 8]), "expand: [B, T, 8] does not broadcast to [B, 1, 8]"],
    [
      "concat",
      () => ops.concat([x, ids], 1),
      "concat along axis 1: input float32[B, T, 8], input int64[B, T] do not fit",
    ],
    ["concat of nothing", () => ops.concat([], 0), "concat: needs at least one tensor"],
    ["slice", () => ops.slice(x, -1, 6, 3), "slice: 6..9 of axis 2 of [B, T, 8]"],
    ["an axis", () => ops.reduceSum(x, [3]), "reduceSum: axis 3 of a tensor with 3 axes"],
    ["gatherRows", () => ops.gatherRows(w, x), "gatherRows: ids must be int64, got input float32[B, T, 8]"],
    [
      "gatherLast",
      () => ops.gatherLast(w, ids),
      "gatherLast: ids input int64[B, T] do not index the last axis of [4, 7]",
    ],
    [
      "scatterAddRows",
      () => ops.scatterAddRows(x, ids, 3),
      "scatterAddRows: ids input int64[B, T] do not index",
    ],
    [
      "uniform",
      () => ops.uniform(ids, 0, [2]),
      "uniform: seed must be a uint64 scalar, got input int64[B, T]",
    ],
  ];
  test.each(refused)("%s", (_name, build, message) => {
    expect(build).toThrow(message);
  });
});
