/** Ops that move or make values without arithmetic. */
import { InternalError } from "../../errors.js";
import type { DType } from "../../host-tensor.js";
import {
  addDims,
  broadcastShapes,
  dimension,
  multiplyDims,
  sameShape,
  showShape,
  subtractDims,
  type Dim,
  type Shape,
} from "../dims.js";
import { makeTensor, scalar, type Tensor } from "../graph.js";
import { cast, onnxType } from "./elementwise.js";
import type { RuleTable } from "./rule.js";

/** A one-axis int64 constant. */
export const int64Vector = (values: readonly number[]) =>
  ({ dtype: "int64", dims: [values.length], data: BigInt64Array.from(values, BigInt) }) as const;

/** A non-negative axis; negative ones count from the end. */
export function normalAxis(where: string, axis: number, rank: number): number {
  const normal = axis < 0 ? axis + rank : axis;
  if (normal < 0 || normal >= rank)
    throw new InternalError(`${where}: axis ${axis} of a tensor with ${rank} axes`);
  return normal;
}

/** The same values in row-major order under another shape. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const target = shape.map(dimension);
  if (multiplyDims(...x.shape) !== multiplyDims(...target)) {
    throw new InternalError(
      `reshape: ${showShape(x.shape)} does not hold as many values as ${showShape(target)}`,
    );
  }
  if (sameShape(x.shape, target)) return x;
  const source = x.node.kind === "reshape" ? x.node.inputs[0]! : x;
  if (sameShape(source.shape, target)) return source;
  return makeTensor("reshape", [source], { shape: target }, x.dtype, target);
}

/** Reorders axes: axis `i` of the result is axis `permutation[i]` of `x`. */
export function transpose(x: Tensor, permutation: readonly number[]): Tensor {
  if (
    permutation.length !== x.rank ||
    new Set(permutation).size !== x.rank ||
    permutation.some((axis) => !(axis >= 0 && axis < x.rank))
  ) {
    throw new InternalError(
      `transpose: [${permutation.join(", ")}] does not permute the axes of ${showShape(x.shape)}`,
    );
  }
  if (permutation.every((axis, place) => axis === place)) return x;
  return makeTensor(
    "transpose",
    [x],
    { permutation },
    x.dtype,
    permutation.map((axis) => x.shape[axis]!),
  );
}

/** Repeats axes of size 1 (and adds leading axes) up to `shape`. */
export function expand(x: Tensor, shape: Shape): Tensor {
  const target = shape.map(dimension);
  if (sameShape(x.shape, target)) return x;
  if (!sameShape(broadcastShapes("expand", x.shape, target), target)) {
    throw new InternalError(`expand: ${showShape(x.shape)} does not broadcast to ${showShape(target)}`);
  }
  return makeTensor("expand", [x], { shape: target }, x.dtype, target);
}

/** Joins tensors along one axis. */
export function concat(parts: readonly Tensor[], axis: number): Tensor {
  const first = parts[0];
  if (first === undefined) throw new InternalError("concat: needs at least one tensor");
  if (parts.length === 1) return first;
  const at = normalAxis("concat", axis, first.rank);
  for (const part of parts) {
    const fits =
      part.rank === first.rank &&
      part.dtype === first.dtype &&
      part.shape.every((dim, i) => i === at || dim === first.shape[i]);
    if (!fits) throw new InternalError(`concat along axis ${at}: ${parts.map(String).join(", ")} do not fit`);
  }
  const shape = first.shape.map((dim, i) =>
    i === at ? addDims(...parts.map((part) => part.shape[at]!)) : dim,
  );
  return makeTensor("concat", parts, { axis: at }, first.dtype, shape);
}

/** `length` entries of one axis from `start` on. */
export function slice(x: Tensor, axis: number, start: Dim, length: Dim): Tensor {
  const at = normalAxis("slice", axis, x.rank);
  const [from, count] = [dimension(start), dimension(length)];
  const size = x.shape[at]!;
  if (from === 0 && count === size) return x;
  if (
    typeof size === "number" &&
    typeof from === "number" &&
    typeof count === "number" &&
    (from < 0 || count < 0 || from + count > size)
  ) {
    throw new InternalError(`slice: ${from}..${from + count} of axis ${at} of ${showShape(x.shape)}`);
  }
  return makeTensor(
    "slice",
    [x],
    { axis: at, start: from, length: count },
    x.dtype,
    x.shape.map((dim, i) => (i === at ? count : dim)),
  );
}

/** One entry of an axis, which disappears. */
export function select(x: Tensor, axis: number, index: Dim): Tensor {
  const at = normalAxis("select", axis, x.rank);
  const part = slice(x, at, index, 1);
  return reshape(
    part,
    part.shape.filter((_, i) => i !== at),
  );
}

/** Zeros before and after the values of one axis. */
export function pad(x: Tensor, axis: number, before: Dim, after: Dim): Tensor {
  const at = normalAxis("pad", axis, x.rank);
  const [left, right] = [dimension(before), dimension(after)];
  if (left === 0 && right === 0) return x;
  const shape = x.shape.map((dim, i) => (i === at ? addDims(left, dim, right) : dim));
  return makeTensor("pad", [x], { axis: at, before: left, after: right }, x.dtype, shape);
}

/** The int64 numbers 0 to size - 1. */
export function range(size: Dim): Tensor {
  return makeTensor("range", [], { size: dimension(size) }, "int64", [dimension(size)]);
}

/** A dimension as an int64 scalar. */
export function size(dim: Dim): Tensor {
  return makeTensor("size", [], { dim: dimension(dim) }, "int64", []);
}

/** A dimension as a float32 scalar, for means over named sizes. */
export function sizeOf(dim: Dim): Tensor {
  return typeof dim === "number" ? scalar(dim) : cast(size(dim), "float32");
}

export function zeros(shape: Shape, dtype: DType = "float32"): Tensor {
  return makeTensor("zeros", [], { shape: shape.map(dimension) }, dtype, shape.map(dimension));
}

const noInputs = "it has no input";

export const movementRules: RuleTable<
  "reshape" | "transpose" | "expand" | "concat" | "slice" | "pad" | "range" | "size" | "zeros"
> = {
  reshape: {
    emit: (emitter, node, inputs, outputs) => {
      const { shape } = node.attributes;
      const named = shape.filter((dim) => typeof dim === "string");
      // With one unknown size the runtime can infer it, which needs no nodes.
      const sizes =
        named.length <= 1 && !shape.includes(0)
          ? emitter.constant(int64Vector(shape.map((dim) => (typeof dim === "string" ? -1 : dim))))
          : emitter.sizes(shape);
      emitter.node("Reshape", [inputs[0]!, sizes], {}, { outputs });
    },
    gradient: ({ inputs: [x], upstream, ops }) => [ops.reshape(upstream, x!.shape)],
  },
  transpose: {
    emit: (emitter, node, inputs, outputs) => {
      emitter.node("Transpose", inputs, { perm: node.attributes.permutation }, { outputs });
    },
    gradient: ({ node, upstream, ops }) => {
      const { permutation } = node.attributes;
      return [
        ops.transpose(
          upstream,
          permutation.map((_, axis) => permutation.indexOf(axis)),
        ),
      ];
    },
  },
  expand: {
    emit: (emitter, node, inputs, outputs) => {
      emitter.node("Expand", [inputs[0]!, emitter.sizes(node.attributes.shape)], {}, { outputs });
    },
    gradient: ({ inputs: [x], upstream, ops }) => [ops.sumTo(upstream, x!.shape)],
  },
  concat: {
    emit: (emitter, node, inputs, outputs) => {
      emitter.node("Concat", inputs, { axis: node.attributes.axis }, { outputs });
    },
    gradient: ({ node, inputs, upstream, wants, ops }) => {
      const { axis } = node.attributes;
      let start: Dim = 0;
      return inputs.map((part, i) => {
        const from = start;
        start = addDims(start, part.shape[axis]!);
        return wants[i] ? ops.slice(upstream, axis, from, part.shape[axis]!) : undefined;
      });
    },
  },
  slice: {
    emit: (emitter, node, inputs, outputs) => {
      const { axis, start, length } = node.attributes;
      const bounds = [emitter.sizes([start]), emitter.sizes([addDims(start, length)])];
      emitter.node("Slice", [inputs[0]!, ...bounds, emitter.constant(int64Vector([axis]))], {}, { outputs });
    },
    gradient: ({ node, inputs: [x], upstream, ops }) => {
      const { axis, start, length } = node.attributes;
      return [ops.pad(upstream, axis, start, subtractDims(x!.shape[axis]!, addDims(start, length)))];
    },
  },
  pad: {
    emit: (emitter, node, inputs, outputs) => {
      const { axis, before, after } = node.attributes;
      const zero = Array<Dim>(node.inputs[0]!.rank).fill(0);
      const pads = [...zero.with(axis, before), ...zero.with(axis, after)];
      emitter.node("Pad", [inputs[0]!, emitter.sizes(pads)], {}, { outputs });
    },
    gradient: ({ node, inputs: [x], upstream, ops }) => {
      const { axis, before } = node.attributes;
      return [ops.slice(upstream, axis, before, x!.shape[axis]!)];
    },
  },
  range: {
    emit: (emitter, node, _inputs, outputs) => {
      const size = emitter.node("Squeeze", [emitter.sizes([node.attributes.size])]);
      const bound = (value: number) =>
        emitter.constant({ dtype: "int64", dims: [], data: BigInt64Array.of(BigInt(value)) });
      emitter.node("Range", [bound(0), size, bound(1)], {}, { outputs });
    },
    gradient: noInputs,
  },
  size: {
    emit: (emitter, node, _inputs, outputs) => {
      emitter.node("Squeeze", [emitter.sizes([node.attributes.dim])], {}, { outputs });
    },
    gradient: noInputs,
  },
  zeros: {
    emit: (emitter, node, _inputs, outputs) => {
      const zero = emitter.node(
        "Cast",
        [emitter.constant({ dtype: "float32", dims: [], data: Float32Array.of(0) })],
        { to: onnxType(node.outputs[0]!.dtype) },
      );
      emitter.node("Expand", [zero, emitter.sizes(node.attributes.shape)], {}, { outputs });
    },
    gradient: noInputs,
  },
};
