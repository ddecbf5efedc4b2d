/** Matrix products. */
import { InternalError } from "../../errors.js";
import { broadcastShapes, showShape } from "../dims.js";
import { makeTensor, type Tensor } from "../graph.js";
import type { RuleTable } from "./rule.js";

export interface GemmOptions {
  readonly transA?: boolean;
  readonly transB?: boolean;
}

/** `op(a) op(b) + bias` for matrices, where `op` transposes on request. a: [M, K], b: [K, N], bias: [N]. */
export function gemm(a: Tensor, b: Tensor, options: GemmOptions = {}, bias?: Tensor): Tensor {
  const { transA = false, transB = false } = options;
  if (a.rank !== 2 || b.rank !== 2) throw new InternalError(`gemm: needs two matrices, got ${a} and ${b}`);
  const [m, k] = transA ? [a.shape[1]!, a.shape[0]!] : [a.shape[0]!, a.shape[1]!];
  const [k2, n] = transB ? [b.shape[1]!, b.shape[0]!] : [b.shape[0]!, b.shape[1]!];
  if (k !== k2) {
    throw new InternalError(
      `gemm: inner sizes ${k} and ${k2} differ for ${showShape(a.shape)} and ${showShape(b.shape)}`,
    );
  }
  if (bias !== undefined && (bias.rank !== 1 || bias.shape[0] !== n)) {
    throw new InternalError(`gemm: bias must be [${n}], got ${showShape(bias.shape)}`);
  }
  return makeTensor("gemm", bias ? [a, b, bias] : [a, b], { transA, transB }, a.dtype, [m, n]);
}

export interface MatmulOptions extends GemmOptions {
  /** A factor on the product, free of cost in the kernel. */
  readonly alpha?: number;
}

/** Batched product over the last two axes with broadcast leading axes. */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  const { transA = false, transB = false, alpha = 1 } = options;
  if (a.rank < 2 || b.rank < 2) throw new InternalError(`matmul: needs at least two axes, got ${a} and ${b}`);
  const [m, k] = transA ? [a.shape.at(-1)!, a.shape.at(-2)!] : [a.shape.at(-2)!, a.shape.at(-1)!];
  const [k2, n] = transB ? [b.shape.at(-1)!, b.shape.at(-2)!] : [b.shape.at(-2)!, b.shape.at(-1)!];
  if (k !== k2) {
    throw new InternalError(
      `matmul: inner sizes ${k} and ${k2} differ for ${showShape(a.shape)} and ${showShape(b.shape)}`,
    );
  }
  const batch = broadcastShapes("matmul", a.shape.slice(0, -2), b.shape.slice(0, -2));
  return makeTensor("matmul", [a, b], { transA, transB, alpha }, a.dtype, [...batch, m, n]);
}

export const linearAlgebraRules: RuleTable<"gemm" | "matmul"> = {
  gemm: {
    emit: (emitter, node, inputs, outputs) => {
      const { transA, transB } = node.attributes;
      emitter.node("Gemm", inputs, { transA: Number(transA), transB: Number(transB) }, { outputs });
    },
    gradient: ({ node, inputs: [a, b, bias], upstream: g, wants, ops }) => {
      const { transA, transB } = node.attributes;
      return [
        wants[0]
          ? transA
            ? ops.gemm(b!, g, { transA: transB, transB: true })
            : ops.gemm(g, b!, { transB: !transB })
          : undefined,
        wants[1]
          ? transB
            ? ops.gemm(g, ops.madeAgain(a!), { transA: true, transB: transA })
            : ops.gemm(ops.madeAgain(a!), g, { transA: !transA })
          : undefined,
        wants[2] && bias ? ops.sumTo(g, bias.shape) : undefined,
      ];
    },
  },
  matmul: {
    emit: (emitter, node, inputs, outputs) => {
      const { transA, transB, alpha } = node.attributes;
      if (!transA && !transB && alpha === 1) emitter.node("MatMul", inputs, {}, { outputs });
      else {
        const attributes = { transA: Number(transA), transB: Number(transB), alpha: { float: alpha } };
        emitter.node("FusedMatMul", inputs, attributes, { outputs, domain: "com.microsoft" });
      }
    },
    gradient: ({ node, inputs: [a, b], upstream: g, wants, ops }) => {
      const { transA, transB, alpha } = node.attributes;
      return [
        wants[0]
          ? ops.sumTo(
              transA
                ? ops.matmul(b!, g, { transA: transB, transB: true, alpha })
                : ops.matmul(g, b!, { transB: !transB, alpha }),
              a!.shape,
            )
          : undefined,
        wants[1]
          ? ops.sumTo(
              transB
                ? ops.matmul(g, a!, { transA: true, transB: transA, alpha })
                : ops.matmul(a!, g, { transA: !transA, alpha }),
              b!.shape,
            )
          : undefined,
      ];
    },
  },
};
