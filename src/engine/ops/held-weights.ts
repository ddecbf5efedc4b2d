/**
 * How an op reads a frozen weight that is not held as float32. The graph knows nothing of it: the form
 * follows from the value that is given at compile time, so a model is written once for all precisions.
 *
 * Quantised matrices have one use, x W^T. There is no gradient through them: training reads the weights as
 * they were published, because what it learns should fit the model and not one rounding of it.
 *
 * Shapes: M rows, K inner size, N outputs.
 */
import type { FrozenValue, HostTensor, QuantisedMatrix } from "../../host-tensor.js";
import type { Node, OpName } from "../graph.js";
import { onnxType } from "./elementwise.js";
import type { Emitter } from "./rule.js";

interface HeldWeight {
  readonly name: string;
  readonly value: FrozenValue;
}

export interface HeldForm<K extends OpName> {
  /** Which input of the node the weight is. */
  readonly operand: number;
  /** Whether this form is for such a node and such a value; else the weight is widened to float32. */
  readonly takes: (node: Node<K>, value: FrozenValue) => boolean;
  /** As `OpRule.emit`; the weight's own place in `inputs` is empty. */
  readonly emit: (
    emitter: Emitter,
    node: Node<K>,
    weight: HeldWeight,
    inputs: readonly string[],
    outputs: readonly string[],
  ) => void;
}

const contrib = "com.microsoft";

const float = (value: number): HostTensor => ({
  dtype: "float32",
  dims: [],
  data: Float32Array.of(value),
});
const bytes = (values: readonly number[], dims: readonly number[]): HostTensor => ({
  dtype: "uint8",
  dims,
  data: Uint8Array.from(values),
});

/** The middle of the unsigned bytes, where the signed ones have zero. */
const middle = 128;

/** x: float32 [M, K] -> x W^T. Returns the output's name. */
type Product = (
  emitter: Emitter,
  name: string,
  weight: QuantisedMatrix,
  x: string,
  outputs?: readonly string[],
) => string;

/**
 * One scale per row of x and one per output: x is rounded to 8 bits around 128, multiplied in whole numbers, and
 * scaled twice. (The runtime's fused operator has one scale for all rows, which a single large value would coarsen.)
 * Equal inputs are rounded once: the runtime merges equal nodes.
 */
const int8Product: Product = (emitter, name, { values, scales }, x, outputs) => {
  const last = emitter.constant({ dtype: "int64", dims: [1], data: BigInt64Array.of(-1n) });
  const largest = emitter.node("ReduceMax", [emitter.node("Abs", [x]), last], { keepdims: 1 });
  // A row of zeros has no scale; any will do.
  const bounded = emitter.node("Max", [largest, emitter.constant(float(1e-30))]);
  const rowScale = emitter.node("Mul", [bounded, emitter.constant(float(1 / 127))]);
  const vector = emitter.node("Reshape", [rowScale, last]);
  const middles = emitter.node("Expand", [
    emitter.constant(bytes([middle], [1])),
    emitter.node("Shape", [vector]),
  ]);
  const rounded = emitter.node("QuantizeLinear", [x, vector, middles], { axis: 0 });
  const zeroPoint = emitter.constant(bytes([middle], []));
  const isShifted = emitter.byteProducts === "unsigned";
  const product = emitter.node(
    "MatMulIntegerToFloat",
    [
      rounded,
      isShifted ? shifted(emitter, name, values) : emitter.initializer(`${name}.int8`, values),
      emitter.constant(float(1)),
      emitter.initializer(`${name}.scales`, scales),
      zeroPoint,
      ...(isShifted ? [zeroPoint] : []),
    ],
    {},
    { domain: contrib },
  );
  return emitter.node("Mul", [product, rowScale], {}, outputs && { outputs });
};

/**
 * Signed bytes as unsigned ones around 128: the same bytes with the first bit turned over. The runtime does that once, at
 * load, so the file and its tensors are those of the other form.
 */
function shifted(emitter: Emitter, name: string, values: QuantisedMatrix["values"]): string {
  const held = emitter.initializer(`${name}.int8`, { ...values, dtype: "uint8" });
  return emitter.node("BitwiseXor", [held, emitter.constant(bytes([middle], []))]);
}

/**
 * Blocks of W with a scale each; the kernel rounds x to 8 bits, block by block (`accuracy_level` 4). Its products, of at
 * most 128 and 8, cannot saturate in 16 bits.
 */
const int4Product: Product = (emitter, name, { dims: [n, k], values, scales }, x, outputs) =>
  emitter.node(
    "MatMulNBits",
    [x, emitter.initializer(`${name}.int4`, values), emitter.initializer(`${name}.scales`, scales)],
    { K: k, N: n, bits: 4, block_size: 2 * values.dims[2]!, accuracy_level: 4 },
    { domain: contrib, ...(outputs && { outputs }) },
  );

const gemm: HeldForm<"gemm"> = {
  operand: 1,
  takes: ({ attributes: { transA, transB } }, value) => "quantised" in value && transB && !transA,
  emit: (emitter, _node, { name, value }, [x, , bias], outputs) => {
    const weight = value as QuantisedMatrix;
    const product = weight.quantised === "int8" ? int8Product : int4Product;
    if (bias === undefined) product(emitter, name, weight, x!, outputs);
    else emitter.node("Add", [product(emitter, name, weight, x!), bias], {}, { outputs });
  },
};

/** Rows are taken from the table as it is stored and widened then: no float32 copy of a word table comes about. */
const gatherRows: HeldForm<"gatherRows"> = {
  operand: 0,
  takes: (_node, value) => tableOf(value) !== undefined,
  emit: (emitter, _node, { name, value }, [, ids], outputs) => {
    const table = tableOf(value)!;
    const stored = emitter.initializer(name, table);
    if (table.dtype === "float32") emitter.node("Gather", [stored, ids!], { axis: 0 }, { outputs });
    else {
      const rows = emitter.node("Gather", [stored, ids!], { axis: 0 });
      emitter.node("Cast", [rows], { to: onnxType("float32") }, { outputs });
    }
  },
};

function tableOf(value: FrozenValue): Exclude<FrozenValue, QuantisedMatrix> | undefined {
  return "quantised" in value ? value.table : value;
}

export const heldForms: { readonly [K in OpName]?: HeldForm<K> } = { gemm, gatherRows };
