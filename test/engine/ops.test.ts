/** Every op, forward and backward, against PyTorch's numbers (or a formula here) and finite differences. */
import { readFileSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import { constant, integer, ops, type Tensor } from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import type { OpName } from "../../src/engine/graph.js";
import { opTable } from "../../src/engine/op-table.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { checkOp, randomTensor, type CheckOptions, type OpCase } from "./check-op.js";
import { goldenCases } from "./golden-ops.js";

interface OpTest {
  readonly cases: () => Promise<readonly OpCase[]> | readonly OpCase[];
  readonly options?: Partial<CheckOptions>;
}

const defaults: CheckOptions = {
  output: { absolute: 1e-6, relative: 3e-6 },
  gradient: { absolute: 3e-6, relative: 1e-5 },
  differences: { step: 1 / 64, share: 1e-3 },
};

type Given = Readonly<Record<string, Tensor>>;

/** Cases from a golden file. */
function golden<A = unknown>(
  op: string,
  build: (tensors: Given, attributes: A) => Tensor,
  options: Partial<CheckOptions> = {},
): OpTest {
  return { cases: () => goldenCases<A>(op, build), options };
}

const unary = (op: string, build: (x: Tensor) => Tensor, options?: Partial<CheckOptions>): OpTest =>
  golden(op, ({ x }) => build(x!), options);
const binary = (
  op: string,
  build: (a: Tensor, b: Tensor) => Tensor,
  options?: Partial<CheckOptions>,
): OpTest => golden(op, ({ a, b }) => build(a!, b!), options);

type OwnCase = Omit<OpCase, "expected"> & { readonly output?: HostTensor };

/** Cases written here: their output is `output`, where given; their gradients are checked by differences. */
function own(...cases: readonly OwnCase[]): OpTest {
  return {
    cases: () => cases.map(({ output, ...rest }) => (output ? { ...rest, expected: { output } } : rest)),
  };
}

const bool = (values: readonly number[], dims: readonly number[] = [values.length]): HostTensor => ({
  dtype: "bool",
  dims,
  data: Uint8Array.from(values),
});
const floats = (...values: readonly number[]): HostTensor => float32Tensor(values, [values.length]);
const longs = (...values: readonly number[]): HostTensor => int64Tensor(values, [values.length]);

// Piecewise linear: any step is exact unless it crosses a kink.
const kinked = { differences: { step: 1 / 4096, share: 5e-3 } };
// Singular at zero, which a step must not reach.
const singular = { differences: { step: 1 / 1024, share: 2e-3 } };

interface MatmulAttributes {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

function comparison(
  build: (a: Tensor, b: Tensor) => Tensor,
  holds: (a: number, b: number) => boolean,
): OpTest {
  const [a, b] = [
    [-1, 0, 2, 3],
    [0, 2],
  ] as const;
  const output = bool(
    b.flatMap((y) => a.map((x) => Number(holds(x, y)))),
    [2, 4],
  );
  const both = (given: Given): Tensor => build(given["a"]!, given["b"]!);
  return own(
    { label: "float32", inputs: { a: floats(...a), b: float32Tensor(b, [2, 1]) }, build: both, output },
    { label: "int64", inputs: { a: longs(...a), b: int64Tensor(b, [2, 1]) }, build: both, output },
  );
}

function logical(build: (a: Tensor, b: Tensor) => Tensor, output: HostTensor): OpTest {
  const inputs = { a: bool([0, 0, 1, 1]), b: bool([0, 1, 0, 1]) };
  return own({ label: "bool", inputs, build: ({ a, b }) => build(a!, b!), output });
}

/** Each op's test, or the file beside this one that tests it. A new op without an entry does not compile. */
const opTests: { readonly [K in OpName]: OpTest | string } = {
  input: "session.test.ts",
  parameter: "autodiff.test.ts",
  frozen: "session.test.ts",
  uniform: "random.test.ts",
  keepMask: "random.test.ts",
  stopGradient: "autodiff.test.ts",

  constant: own({
    label: "int64 beside a float",
    inputs: { x: floats(1, 2) },
    build: ({ x }) => ops.mul(x!, ops.cast(constant(longs(3, -4)), "float32")),
    output: floats(3, -8),
  }),
  add: binary("add", ops.add),
  sub: binary("sub", ops.sub),
  mul: binary("mul", ops.mul),
  div: binary("div", ops.div, singular),
  maximum: binary("maximum", ops.maximum, kinked),
  minimum: binary("minimum", ops.minimum, kinked),
  neg: unary("neg", ops.neg),
  exp: unary("exp", ops.exp),
  log: unary("log", ops.log, singular),
  sqrt: unary("sqrt", ops.sqrt, singular),
  erf: unary("erf", ops.erf),
  tanh: unary("tanh", ops.tanh),
  sigmoid: unary("sigmoid", ops.sigmoid),
  abs: own({
    label: "both signs",
    inputs: { x: floats(-2, -0.25, 0.5, 3) },
    build: ({ x }) => ops.abs(x!),
    output: floats(2, 0.25, 0.5, 3),
  }),
  where: golden("where", ({ condition, a, b }) => ops.where(ops.cast(condition!, "bool"), a!, b!)),
  cast: own(
    {
      label: "float32 to int64 rounds towards zero",
      inputs: { x: floats(-1.7, 0.2, 2.9) },
      build: ({ x }) => ops.cast(x!, "int64"),
      output: longs(-1, 0, 2),
    },
    {
      label: "int64 to bool",
      inputs: { x: longs(0, 1, -3) },
      build: ({ x }) => ops.cast(x!, "bool"),
      output: bool([0, 1, 1]),
    },
    {
      label: "a gradient passes float16",
      inputs: { x: floats(0.5, -1.25, 3) },
      build: ({ x }) => ops.mul(ops.cast(ops.cast(x!, "float16"), "float32"), 2),
      output: floats(1, -2.5, 6),
      // Steps of the difference are multiples of float16's spacing nowhere; its own gradient is PyTorch's: 2.
      differentiate: [],
    },
  ),
  equal: comparison(ops.equal, (a, b) => a === b),
  less: comparison(ops.less, (a, b) => a < b),
  lessOrEqual: comparison(ops.lessOrEqual, (a, b) => a <= b),
  and: logical(ops.and, bool([0, 0, 0, 1])),
  or: logical(ops.or, bool([0, 1, 1, 1])),
  not: logical((a) => ops.not(a), bool([1, 1, 0, 0])),
  isFinite: own({
    label: "infinities and NaN",
    inputs: { x: floats(0, -1e38, Infinity, -Infinity, NaN) },
    build: ({ x }) => ops.isFinite(x!),
    output: bool([1, 1, 0, 0, 0]),
  }),

  relu: unary("relu", ops.relu, kinked),
  gelu: {
    cases: async () => [
      ...(await goldenCases("gelu", ({ x }) => ops.gelu(x!))),
      ...(await goldenCases("gelu_tanh", ({ x }) => ops.gelu(x!, "tanh"))),
    ],
  },
  // Values of the standard normal table.
  normalShare: own({
    label: "the share below",
    inputs: { x: floats(-3, -1, 0, 1, 2) },
    build: ({ x }) => ops.normalShare(x!),
    differentiate: [],
    output: floats(0.001349898, 0.1586552539, 0.5, 0.8413447461, 0.9772498681),
  }),
  geluSlope: {
    cases: async () => {
      const build: OpCase["build"] = ({ x }) => ops.geluSlope(x!);
      const cases = await goldenCases("gelu", build);
      // With an upstream gradient of ones, the expected gradient of gelu is its slope.
      const golden = cases.map(({ expected, ...rest }) => {
        const [up, slope] = [expected!.upstream!, expected!.gradients!["x"]!];
        const data = Float32Array.from(slope.data as Float32Array, (value, i) => value / Number(up.data[i]));
        return { ...rest, expected: { output: { ...slope, data } }, differentiate: [] };
      });
      const inputs = { x: floats(-1e4, -20, 20, 1e4) };
      const expected = { output: floats(0, 0, 1, 1) };
      return [...golden, { label: "far out", inputs, build, expected, differentiate: [] }];
    },
    options: { output: { absolute: 1e-6, relative: 1e-5 } },
  },
  quickGelu: unary("quick_gelu", ops.quickGelu),
  softmax: unary("softmax", ops.softmax),
  logSoftmax: unary("log_softmax", ops.logSoftmax),
  layerNorm: golden<{ eps: number }>("layer_norm", ({ x, weight, bias }, { eps }) =>
    ops.layerNorm(x!, weight!, bias!, eps),
  ),
  rmsNorm: golden<{ eps: number }>("rms_norm", ({ x, weight }, { eps }) => ops.rmsNorm(x!, weight!, eps)),

  gemm: {
    cases: async () => [
      ...(
        await goldenCases<MatmulAttributes>("matmul", ({ a, b }, { transposeA, transposeB }) =>
          ops.gemm(a!, b!, { transA: transposeA, transB: transposeB }),
        )
      ).filter(({ inputs }) => Object.values(inputs).every(({ dims }) => dims.length === 2)),
      ...(await goldenCases("linear", ({ x, weight, bias }) => ops.linear(x!, weight!, bias))),
    ],
  },
  matmul: {
    cases: async () => [
      ...(await goldenCases<MatmulAttributes>("matmul", ({ a, b }, { transposeA, transposeB }) =>
        ops.matmul(a!, b!, { transA: transposeA, transB: transposeB }),
      )),
      ...[false, true].flatMap((transA) =>
        [false, true].map((transB) => ({
          label: `alpha, transA ${transA}, transB ${transB}`,
          inputs: {
            a: randomTensor(transA ? [2, 4, 3] : [2, 3, 4], 1),
            b: randomTensor(transB ? [5, 4] : [4, 5], 2),
          },
          build: ({ a, b }: Given) => ops.matmul(a!, b!, { transA, transB, alpha: 0.5 }),
        })),
      ),
    ],
  },

  reshape: golden<{ shape: readonly number[] }>("reshape", ({ x }, { shape }) =>
    ops.reshape(
      x!,
      shape.map((size) => (size === -1 ? 4 : size)),
    ),
  ),
  transpose: golden<{ permutation: readonly number[] }>("transpose", ({ x }, { permutation }) =>
    ops.transpose(x!, permutation),
  ),
  expand: golden<{ shape: readonly number[] }>("expand", ({ x }, { shape }) => ops.expand(x!, shape)),
  concat: golden<{ axis: number }>("concat", (parts, { axis }) => ops.concat(Object.values(parts), axis)),
  slice: golden<{ axis: number; start: number; end: number }>("slice", ({ x }, { axis, start, end }) =>
    ops.slice(x!, axis, start, end - start),
  ),
  pad: golden<{ padding: readonly [number, number][]; value: number }>("pad", ({ x }, { padding, value }) => {
    // The engine pads one axis with zeros; the golden cases pad several with a value.
    const padded = padding.reduce(
      (y, [before, after], axis) => ops.pad(y, axis, before, after),
      ops.sub(x!, value),
    );
    return ops.add(padded, value);
  }),
  range: own({
    label: "0 to 4",
    inputs: { x: longs(10, 10, 10, 10, 10) },
    build: ({ x }) => ops.add(x!, ops.range(5)),
    output: longs(10, 11, 12, 13, 14),
  }),
  size: own({
    label: "a fixed size",
    inputs: { x: floats(1, 2, 3) },
    build: ({ x }) => ops.mul(x!, ops.cast(ops.size(7), "float32")),
    output: floats(7, 14, 21),
  }),
  zeros: own(
    {
      label: "float32",
      inputs: { x: floats(1) },
      build: ({ x }) => ops.add(x!, ops.zeros([2, 3])),
      output: float32Tensor([1, 1, 1, 1, 1, 1], [2, 3]),
    },
    {
      label: "int64",
      inputs: { x: longs(1) },
      build: ({ x }) => ops.add(x!, ops.zeros([2], "int64")),
      output: longs(1, 1),
    },
  ),

  reduceSum: golden<{ axes: readonly number[]; keepDims: boolean }>(
    "reduce_sum",
    ({ x }, { axes, keepDims }) => ops.reduceSum(x!, axes, { keepDims }),
  ),
  reduceMean: golden<{ axes: readonly number[]; keepDims: boolean }>(
    "reduce_mean",
    ({ x }, { axes, keepDims }) => ops.reduceMean(x!, axes, { keepDims }),
  ),
  cumulativeSum: own({
    label: "along rows",
    inputs: { x: int64Tensor([1, 2, 3, 4, 5, 6], [2, 3]) },
    build: ({ x }) => ops.cumulativeSum(x!, -1),
    output: int64Tensor([1, 3, 6, 4, 9, 15], [2, 3]),
  }),
  argmax: own({
    label: "the first of equals",
    inputs: { x: float32Tensor([1, 5, 5, 7, -1, 7], [2, 3]) },
    build: ({ x }) => ops.argmax(x!),
    output: longs(1, 0),
  }),

  gatherRows: {
    cases: async () => [
      ...(await goldenCases("embedding", ({ weight, ids }) => ops.gatherRows(weight!, ids!))),
      ...(await goldenCases("index_select", ({ x, ids }) => ops.gatherRows(x!, ids!))),
    ],
  },
  scatterAddRows: own(
    {
      label: "repeated rows add up",
      inputs: { x: float32Tensor([1, 2, 3, 4, 5, 6], [3, 2]), ids: longs(1, 3, 1) },
      build: ({ x, ids }) => ops.scatterAddRows(x!, ids!, 4),
      output: float32Tensor([0, 0, 6, 8, 0, 0, 3, 4], [4, 2]),
    },
    {
      label: "one axis",
      inputs: { x: floats(1, 2), ids: longs(0, 0) },
      build: ({ x, ids }) => ops.scatterAddRows(x!, ids!, 2),
      output: floats(3, 0),
    },
  ),
  gatherLast: golden("gather_last", ({ x, index }) => {
    // The golden cases take several values per position, the engine one.
    const places = Array.from({ length: Number(index!.shape.at(-1)) }, (_, k) => {
      const y = ops.gatherLast(x!, ops.select(index!, -1, k));
      return ops.reshape(y, [...y.shape, 1]);
    });
    return ops.concat(places, -1);
  }),
  scatterAddLast: own(
    {
      label: "one value per row",
      inputs: { x: float32Tensor([1, 2, 3, 4, 5, 6], [2, 3]), values: floats(10, 20), ids: longs(2, 0) },
      build: ({ x, values, ids }) => ops.scatterAddLast(x!, values!, ids!),
      output: float32Tensor([1, 2, 13, 24, 5, 6], [2, 3]),
    },
    {
      label: "three axes",
      inputs: {
        x: randomTensor([2, 2, 3], 1),
        values: randomTensor([2, 2], 2),
        ids: int64Tensor([0, 1, 2, 2], [2, 2]),
      },
      build: ({ x, values, ids }) => ops.scatterAddLast(x!, values!, ids!),
    },
  ),
  logLikelihood: {
    cases: async () => [
      ...(await goldenCases<{ labelSmoothing: number; ignoreIndex: number }>(
        "cross_entropy",
        ({ logits, labels }, { labelSmoothing: smoothing, ignoreIndex }) => {
          const kept = ops.not(ops.equal(labels!, integer(ignoreIndex)));
          const log = ops.logSoftmax(logits!);
          const chosen = ops.gatherLast(log, ops.where(kept, labels!, integer(0)));
          const smooth = ops.add(
            ops.mul(chosen, 1 - smoothing),
            ops.mul(ops.reduceMean(log, [-1]), smoothing),
          );
          const weight = ops.cast(kept, "float32");
          return ops.neg(ops.div(ops.reduceSum(ops.mul(smooth, weight)), ops.reduceSum(weight)));
        },
      )),
      {
        label: "three axes",
        inputs: { x: randomTensor([2, 3, 5], 8), ids: int64Tensor([0, 1, 2, 3, 4, 4], [2, 3]) },
        build: ({ x, ids }) => ops.gatherLast(ops.logSoftmax(x!), ids!),
      },
    ],
  },
};

/** Formulas made of ops, which have no rule of their own. */
const composed: Readonly<Record<string, OpTest>> = {
  l2Normalize: golden("l2_normalize", ({ x }) => ops.l2Normalize(x!)),
  maxLast: {
    cases: async () => {
      type Attributes = { readonly axes: readonly number[]; readonly keepDims: boolean };
      const all = await goldenCases<Attributes>("reduce_max", ({ x }) => ops.maxLast(x!));
      return all.filter(({ label }) => label.includes('"axes": [-1]') || label.includes('"axes":[-1]'));
    },
    options: kinked,
  },
  binaryCrossEntropyWithLogits: golden("binary_cross_entropy_with_logits", ({ logits, targets }) =>
    ops.reduceMean(ops.binaryCrossEntropyWithLogits(logits!, ops.cast(targets!, "float32"))),
  ),
  crossEntropyWithSoftTargets: golden("soft_cross_entropy", ({ logits, targets }) =>
    ops.neg(ops.reduceMean(ops.reduceSum(ops.mul(targets!, ops.logSoftmax(logits!)), [-1]))),
  ),
  operandsThatWereExpanded: own(
    {
      label: "one side, to the other's shape",
      inputs: { x: floats(1, -2), z: randomTensor([3, 2], 6) },
      build: ({ x, z }) => ops.div(ops.expand(x!, [3, 2]), ops.exp(z!)),
    },
    {
      label: "both sides, to a shape of neither",
      inputs: { x: floats(1, -2), z: float32Tensor([3, 4, 5], [3, 1]) },
      build: ({ x, z }) => ops.sub(ops.expand(x!, [3, 3, 2]), ops.expand(z!, [3, 3, 2])),
    },
    {
      label: "one tensor on both sides",
      inputs: { x: floats(2, -3) },
      build: ({ x }) => ops.mul(ops.expand(x!, [3, 2]), ops.expand(x!, [3, 2])),
    },
    {
      label: "a square",
      inputs: { x: floats(2, -3) },
      build: ({ x }) => {
        const wide = ops.expand(x!, [3, 2]);
        return ops.mul(wide, wide);
      },
    },
  ),
  dropoutOfNothing: own({
    label: "rate 0 keeps every value",
    inputs: { x: floats(1, -2, 3), seed: { dtype: "uint64", dims: [], data: BigUint64Array.of(3n) } },
    build: ({ x, seed }) => ops.dropout(x!, 0, seed!, 0),
    output: floats(1, -2, 3),
  }),
};

const device = openDevice({ threads: 1 });
afterAll(() => device.close());

describe("ops", () => {
  test("every op of the table has a test", () => {
    expect(Object.keys(opTests).sort()).toEqual(Object.keys(opTable).sort());
  });

  for (const [name, opTest] of Object.entries({ ...opTests, ...composed })) {
    if (typeof opTest === "string") {
      test(`${name} is tested in ${opTest}`, () => {
        expect(readFileSync(new URL(opTest, import.meta.url), "utf8")).toContain(name);
      });
      continue;
    }
    test(name, async () => {
      const cases = await opTest.cases();
      expect(cases).not.toHaveLength(0);
      const kinds = new Set<OpName>();
      for (const one of cases) {
        for (const kind of await checkOp(device, one, { ...defaults, ...opTest.options })) kinds.add(kind);
      }
      if (name in opTable) expect([...kinds]).toContain(name);
    });
  }
});
