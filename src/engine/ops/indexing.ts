/** Gathers, and the scatter that is their gradient. */
import { InternalError } from "../../errors.js";
import { sameShape, showShape, type Dim } from "../dims.js";
import { makeTensor, type OpName, type Tensor } from "../graph.js";
import { onnxType } from "./elementwise.js";
import { int64Vector } from "./movement.js";
import { argmax } from "./reduction.js";
import type { OpRule, RuleTable } from "./rule.js";

/** Rows of a table by index. table: [V, ...D], ids: int64 [...I] -> [...I, ...D]. */
export function gatherRows(table: Tensor, ids: Tensor): Tensor {
  if (ids.dtype !== "int64") throw new InternalError(`gatherRows: ids must be int64, got ${ids}`);
  return makeTensor("gatherRows", [table, ids], {}, table.dtype, [...ids.shape, ...table.shape.slice(1)]);
}

/** Adds each row of `values` [N, ...D] to row `ids[n]` of a zero table [rows, ...D]. */
export function scatterAddRows(values: Tensor, ids: Tensor, rows: Dim): Tensor {
  if (ids.rank !== 1 || ids.shape[0] !== values.shape[0]) {
    throw new InternalError(`scatterAddRows: ids ${ids} do not index the rows of ${values}`);
  }
  return makeTensor("scatterAddRows", [values, ids], { rows }, values.dtype, [
    rows,
    ...values.shape.slice(1),
  ]);
}

/** One value of the last axis per position. x: [..., C], ids: int64 [...] -> [...]. */
export function gatherLast(x: Tensor, ids: Tensor): Tensor {
  if (ids.dtype !== "int64" || !sameShape(x.shape.slice(0, -1), ids.shape)) {
    throw new InternalError(`gatherLast: ids ${ids} do not index the last axis of ${showShape(x.shape)}`);
  }
  // The gradient of the two together needs far fewer passes over all classes.
  if (x.node.kind === "logSoftmax") {
    return makeTensor("logLikelihood", [x.node.inputs[0]!, x, ids], {}, x.dtype, ids.shape);
  }
  return makeTensor("gatherLast", [x, ids], {}, x.dtype, ids.shape);
}

/** `x` with each of `values` added to one value of the last axis. x: [..., C], values, ids: int64 [...]. */
export function scatterAddLast(x: Tensor, values: Tensor, ids: Tensor): Tensor {
  if (!sameShape(x.shape.slice(0, -1), ids.shape) || !sameShape(values.shape, ids.shape)) {
    throw new InternalError(
      `scatterAddLast: ${values} at ${ids} do not fit the last axis of ${showShape(x.shape)}`,
    );
  }
  return makeTensor("scatterAddLast", [x, values, ids], {}, x.dtype, x.shape);
}

/** The largest value of the last axis; the gradient goes to the first of equals. x: [..., C] -> [...]. */
export function maxLast(x: Tensor): Tensor {
  return gatherLast(x, argmax(x));
}

const emitGatherLast: OpRule<OpName>["emit"] = (emitter, _node, [x, ids], outputs) => {
  const last = emitter.constant(int64Vector([-1]));
  const column = emitter.node("Unsqueeze", [ids!, last]);
  const picked = emitter.node("GatherElements", [x!, column], { axis: -1 });
  emitter.node("Squeeze", [picked, last], {}, { outputs });
};

export const indexingRules: RuleTable<
  "gatherRows" | "scatterAddRows" | "gatherLast" | "scatterAddLast" | "logLikelihood"
> = {
  gatherRows: {
    emit: (emitter, _node, inputs, outputs) => {
      emitter.node("Gather", inputs, { axis: 0 }, { outputs });
    },
    gradient: ({ inputs: [table, ids], upstream, wants, ops }) => {
      if (!wants[0]) return [undefined];
      const count = ops.multiplyDims(...ids!.shape);
      const rowShape = table!.shape.slice(1);
      return [
        ops.scatterAddRows(
          ops.reshape(upstream, [count, ...rowShape]),
          ops.reshape(ids!, [count]),
          table!.shape[0]!,
        ),
      ];
    },
  },
  scatterAddRows: {
    emit: (emitter, node, inputs, outputs) => {
      const values = node.inputs[0]!;
      const zero = emitter.node(
        "Cast",
        [emitter.constant({ dtype: "float32", dims: [], data: Float32Array.of(0) })],
        { to: onnxType(values.dtype) },
      );
      const table = emitter.node("Expand", [
        zero,
        emitter.sizes([node.attributes.rows, ...values.shape.slice(1)]),
      ]);
      const column = emitter.node("Unsqueeze", [inputs[1]!, emitter.constant(int64Vector([-1]))]);
      emitter.node("ScatterND", [table, column, inputs[0]!], { reduction: "add" }, { outputs });
    },
    gradient: ({ inputs: [, ids], upstream, ops }) => [ops.gatherRows(upstream, ids!)],
  },
  gatherLast: {
    emit: emitGatherLast,
    gradient: ({ inputs: [x, ids], upstream, ops }) => [
      ops.scatterAddLast(ops.zeros(x!.shape, x!.dtype), upstream, ids!),
    ],
  },
  scatterAddLast: {
    emit: (emitter, _node, [x, values, ids], outputs) => {
      const last = emitter.constant(int64Vector([-1]));
      const columns = [ids!, values!].map((name) => emitter.node("Unsqueeze", [name, last]));
      emitter.node("ScatterElements", [x!, ...columns], { axis: -1, reduction: "add" }, { outputs });
    },
    gradient: ({ inputs: [, , ids], upstream, wants, ops }) => [
      wants[0] ? upstream : undefined,
      wants[1] ? ops.gatherLast(upstream, ids!) : undefined,
    ],
  },
  // Inputs: x, logSoftmax(x), ids. The gradient goes to x at once: g (onehot(id) - softmax(x)).
  logLikelihood: {
    emit: (emitter, node, [, logProbabilities, ids], outputs) => {
      emitGatherLast(emitter, node, [logProbabilities!, ids!], outputs);
    },
    gradient: ({ inputs: [, logProbabilities, ids], upstream, ops }) => {
      const column = ops.reshape(ops.neg(upstream), [...upstream.shape, 1]);
      return [ops.scatterAddLast(ops.mul(ops.exp(logProbabilities!), column), upstream, ids!)];
    },
  },
};
