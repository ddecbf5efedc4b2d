/** Sums, means, maxima over axes. */
import { InternalError } from "../../errors.js";
import { float32Tensor } from "../../host-tensor.js";
import { multiplyDims, sameShape, showShape, type Shape } from "../dims.js";
import { constant, makeTensor, type Tensor } from "../graph.js";
import { matmul } from "./linear-algebra.js";
import { expand, normalAxis, reshape } from "./movement.js";
import type { RuleTable } from "./rule.js";

interface ReduceOptions {
  /** Keep reduced axes with size 1. */
  readonly keepDims?: boolean;
}

function reduce(
  kind: "reduceSum" | "reduceMean",
  x: Tensor,
  axes: readonly number[],
  options: ReduceOptions,
): Tensor {
  const normal = axes.map((axis) => normalAxis(kind, axis, x.rank)).sort((a, b) => a - b);
  if (normal.length === 0) return x;
  const kept = x.shape.map((dim, axis) => (normal.includes(axis) ? 1 : dim));
  const y = makeTensor(kind, [x], { axes: normal }, x.dtype, kept);
  return options.keepDims
    ? y
    : reshape(
        y,
        x.shape.filter((_, axis) => !normal.includes(axis)),
      );
}

/** The sum over `axes` (all when not given). */
export function reduceSum(
  x: Tensor,
  axes: readonly number[] = x.shape.map((_, axis) => axis),
  options: ReduceOptions = {},
): Tensor {
  return reduce("reduceSum", x, axes, options);
}

/** The mean over `axes` (all when not given). */
export function reduceMean(
  x: Tensor,
  axes: readonly number[] = x.shape.map((_, axis) => axis),
  options: ReduceOptions = {},
): Tensor {
  return reduce("reduceMean", x, axes, options);
}

/**
 * Sums a broadcast result back to the shape that was broadcast.
 * @public Gradient rules call it through their context.
 */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.rank - shape.length;
  if (lead < 0) throw new InternalError(`sumTo: ${showShape(x.shape)} to ${showShape(shape)}`);
  const axes = x.shape.flatMap((dim, axis) =>
    axis < lead || (shape[axis - lead] === 1 && dim !== 1) ? [axis] : [],
  );
  const width = x.shape.at(-1)!;
  const rows = multiplyDims(...x.shape.slice(0, -1));
  if (x.dtype === "float32" && rows !== 1 && multiplyDims(...shape) === width && axes.at(-1) !== x.rank - 1) {
    // The gradient of a bias: a product with ones sums columns faster than the runtime's reduction.
    const ones = expand(constant(float32Tensor([1], [1, 1])), [1, rows]);
    return reshape(matmul(ones, reshape(x, [rows, width])), shape);
  }
  return reshape(reduceSum(x, axes, { keepDims: true }), shape);
}

/** Running sums along an axis; no gradient (positions are integers). */
export function cumulativeSum(x: Tensor, axis: number): Tensor {
  return makeTensor(
    "cumulativeSum",
    [x],
    { axis: normalAxis("cumulativeSum", axis, x.rank) },
    x.dtype,
    x.shape,
  );
}

/** The index of the largest value of the last axis, the first of equals. x: [..., C] -> int64 [...]. */
export function argmax(x: Tensor): Tensor {
  return makeTensor("argmax", [x], {}, "int64", x.shape.slice(0, -1));
}

const axesTensor = (axes: readonly number[]) =>
  ({ dtype: "int64", dims: [axes.length], data: BigInt64Array.from(axes, BigInt) }) as const;

export const reductionRules: RuleTable<"reduceSum" | "reduceMean" | "cumulativeSum" | "argmax"> = {
  reduceSum: {
    emit: (emitter, node, inputs, outputs) => {
      emitter.node(
        "ReduceSum",
        [inputs[0]!, emitter.constant(axesTensor(node.attributes.axes))],
        { keepdims: 1 },
        { outputs },
      );
    },
    gradient: ({ inputs: [x], upstream, ops }) => [ops.expand(upstream, x!.shape)],
  },
  reduceMean: {
    emit: (emitter, node, inputs, outputs) => {
      emitter.node(
        "ReduceMean",
        [inputs[0]!, emitter.constant(axesTensor(node.attributes.axes))],
        { keepdims: 1 },
        { outputs },
      );
    },
    gradient: ({ node, inputs: [x], upstream, ops }) => {
      const count = multiplyDims(...node.attributes.axes.map((axis) => x!.shape[axis]!));
      return [ops.expand(ops.div(upstream, ops.sizeOf(count)), x!.shape)];
    },
  },
  cumulativeSum: {
    emit: (emitter, node, inputs, outputs) => {
      const axis = emitter.constant({
        dtype: "int64",
        dims: [],
        data: BigInt64Array.of(BigInt(node.attributes.axis)),
      });
      emitter.node("CumSum", [inputs[0]!, axis], {}, { outputs });
    },
    gradient: "it serves integer positions",
  },
  argmax: {
    emit: (emitter, _node, inputs, outputs) => {
      emitter.node("ArgMax", inputs, { axis: -1, keepdims: 0 }, { outputs });
    },
    gradient: "its result is an index",
  },
};
