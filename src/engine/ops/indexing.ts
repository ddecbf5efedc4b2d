/** Gathers, and the scatter that is their gradient. */
import { InternalError } from "../../errors.js";
import { sameShape, showShape, type Dim } from "../dims.js";
import { makeTensor, type Tensor } from "../graph.js";
import { onnxType } from "./elementwise.js";
import { reshape } from "./movement.js";
import { argmax } from "./reduction.js";
import type { RuleTable } from "./rule.js";

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
  return makeTensor("gatherLast", [x, ids], {}, x.dtype, ids.shape);
}

/** The largest value of the last axis; the gradient goes to the first of equals. x: [..., C] -> [...]. */
export function maxLast(x: Tensor): Tensor {
  return gatherLast(x, argmax(x));
}

export const indexingRules: RuleTable<"gatherRows" | "scatterAddRows" | "gatherLast"> = {
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
      const column = emitter.node("Unsqueeze", [
        inputs[1]!,
        emitter.constant({ dtype: "int64", dims: [1], data: BigInt64Array.of(-1n) }),
      ]);
      emitter.node("ScatterND", [table, column, inputs[0]!], { reduction: "add" }, { outputs });
    },
    gradient: ({ inputs: [, ids], upstream, ops }) => [ops.gatherRows(upstream, ids!)],
  },
  gatherLast: {
    emit: (emitter, _node, inputs, outputs) => {
      const last = emitter.constant({ dtype: "int64", dims: [1], data: BigInt64Array.of(-1n) });
      const column = emitter.node("Unsqueeze", [inputs[1]!, last]);
      emitter.node(
        "Squeeze",
        [emitter.node("GatherElements", [inputs[0]!, column], { axis: -1 }), last],
        {},
        { outputs },
      );
    },
    gradient: ({ inputs: [x, ids], upstream, ops }) => {
      const hit = ops.equal(ops.reshape(ids!, [...ids!.shape, 1]), ops.range(x!.shape.at(-1)!));
      return [ops.where(hit, reshape(upstream, [...upstream.shape, 1]), 0)];
    },
  },
};
