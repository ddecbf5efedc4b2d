/** Activations, softmax and normalisations: the ops whose kernels the runtime fuses. */
import { InternalError } from "../../errors.js";
import { showShape } from "../dims.js";
import { makeNode, makeTensor, type Node, type OpName, type Tensor } from "../graph.js";
import { mul } from "./elementwise.js";
import { reshape } from "./movement.js";
import { single, type Emitter, type GradientContext, type RuleTable } from "./rule.js";

export function relu(x: Tensor): Tensor {
  return makeTensor("relu", [x], {}, x.dtype, x.shape);
}

/** 0.5 x (1 + erf(x / sqrt 2)), or its tanh approximation. */
export function gelu(x: Tensor, approximate: "none" | "tanh" = "none"): Tensor {
  return makeTensor("gelu", [x], { approximate }, x.dtype, x.shape);
}

/** The normal distribution's share below x, Phi(x) = (1 + erf(x / sqrt 2)) / 2. */
export function normalShare(x: Tensor): Tensor {
  const known = normalShares.get(x) ?? makeTensor("normalShare", [x], {}, x.dtype, x.shape);
  normalShares.set(x, known);
  return known;
}

/** One for each x, as two gradients read it. */
const normalShares = new WeakMap<Tensor, Tensor>();

/** The derivative of the exact gelu: Phi(x) + x phi(x), with the normal distribution's Phi and its density phi. */
export function geluSlope(x: Tensor): Tensor {
  return makeTensor("geluSlope", [x, normalShare(x)], {}, x.dtype, x.shape);
}

/**
 * What a gradient reads in place of `x`. The exact gelu's output is the widest value of a transformer; made again from
 * what the gradient of gelu needs anyway, it costs one product and does not stay in memory until then.
 * @public Gradient rules call it through their context.
 */
export function madeAgain(x: Tensor): Tensor {
  const source = x.node.kind === "reshape" ? x.node.inputs[0]! : x;
  if (source.node.kind !== "gelu") return x;
  const { node } = source as Tensor & { readonly node: Node<"gelu"> };
  if (node.attributes.approximate !== "none") return x;
  return reshape(mul(node.inputs[0]!, normalShare(node.inputs[0]!)), x.shape);
}

/** x * sigmoid(1.702 x), the activation of the original CLIP. */
export function quickGelu(x: Tensor): Tensor {
  return makeTensor("quickGelu", [x], {}, x.dtype, x.shape);
}

/** Softmax over the last axis. */
export function softmax(x: Tensor): Tensor {
  return makeTensor("softmax", [x], {}, x.dtype, x.shape);
}

/** Logarithm of the softmax over the last axis. */
export function logSoftmax(x: Tensor): Tensor {
  return makeTensor("logSoftmax", [x], {}, x.dtype, x.shape);
}

function checkNorm(where: string, x: Tensor, ...weights: readonly Tensor[]): void {
  for (const weight of weights) {
    if (weight.rank !== 1 || weight.shape[0] !== x.shape.at(-1)) {
      throw new InternalError(
        `${where}: weights must be [${x.shape.at(-1)}] for ${showShape(x.shape)}, got ${showShape(weight.shape)}`,
      );
    }
  }
}

/** Layer normalisation over the last axis. weight, bias: [D]. */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: number): Tensor {
  checkNorm("layerNorm", x, weight, bias);
  const moments = [...x.shape.slice(0, -1), 1];
  return makeNode("layerNorm", [x, weight, bias], { epsilon }, [
    { dtype: x.dtype, shape: x.shape },
    { dtype: x.dtype, shape: moments },
    { dtype: x.dtype, shape: moments },
  ])[0]!;
}

/** x / sqrt(mean(x^2) + epsilon) * weight over the last axis (T5's norm). weight: [D]. */
export function rmsNorm(x: Tensor, weight: Tensor, epsilon: number): Tensor {
  checkNorm("rmsNorm", x, weight);
  return makeNode("rmsNorm", [x, weight], { epsilon }, [
    { dtype: x.dtype, shape: x.shape },
    { dtype: x.dtype, shape: [...x.shape.slice(0, -1), 1] },
  ])[0]!;
}

function times(emitter: Emitter, a: string, value: number): string {
  const factor = emitter.constant({ dtype: "float32", dims: [], data: Float32Array.of(value) });
  return emitter.node("Mul", [a, factor]);
}

export const activationRules: RuleTable<
  | "relu"
  | "gelu"
  | "normalShare"
  | "geluSlope"
  | "quickGelu"
  | "softmax"
  | "logSoftmax"
  | "layerNorm"
  | "rmsNorm"
> = {
  relu: {
    emit: single("Relu"),
    // A product with 0 or 1 is cheaper than a choice.
    gradient: ({ outputs: [y], upstream, ops }) => [
      ops.mul(upstream, ops.cast(ops.less(0, y!), upstream.dtype)),
    ],
  },
  gelu: {
    emit: (emitter, node, inputs, outputs) => {
      emitter.node("Gelu", inputs, { approximate: node.attributes.approximate }, { outputs });
    },
    gradient: ({ node, inputs: [x], upstream, ops }) => {
      if (node.attributes.approximate === "tanh") {
        // y = x s with s = sigmoid(2u), u = c (x + a x^3); dy = s + x s (1 - s) 2c (1 + 3a x^2)
        const [c, a] = [Math.sqrt(2 / Math.PI), 0.044715];
        const square = ops.mul(x!, x!);
        const s = ops.sigmoid(ops.mul(x!, ops.add(ops.mul(square, 2 * c * a), 2 * c)));
        const slope = ops.mul(x!, ops.add(ops.mul(square, 6 * c * a), 2 * c));
        return [ops.mul(upstream, ops.mul(s, ops.add(ops.mul(slope, ops.sub(1, s)), 1)))];
      }
      return [ops.mul(upstream, geluSlope(x!))];
    },
  },
  normalShare: {
    emit: (emitter, _node, [x], outputs) => {
      const erf = emitter.node("Erf", [times(emitter, x!, Math.SQRT1_2)]);
      // (1 + erf) / 2 in one pass: the clamp to [0, 1] has nothing to do.
      emitter.node("HardSigmoid", [erf], { alpha: { float: 0.5 }, beta: { float: 0.5 } }, { outputs });
    },
    gradient: "it stands in gradients only, which are not differentiated again",
  },
  geluSlope: {
    emit: (emitter, _node, [x, share], outputs) => {
      // x phi(x) = u e^(-u^2) / sqrt(pi), where u = x / sqrt(2) is what the share's Erf reads: the runtime makes it once.
      const u = times(emitter, x!, Math.SQRT1_2);
      const tilted = emitter.node("Div", [u, emitter.node("Exp", [emitter.node("Mul", [u, u])])]);
      emitter.node("Add", [share!, times(emitter, tilted, 1 / Math.sqrt(Math.PI))], {}, { outputs });
    },
    gradient: "it stands in gradients only, which are not differentiated again",
  },
  quickGelu: {
    emit: (emitter, _node, inputs, outputs) => {
      emitter.node("QuickGelu", inputs, { alpha: { float: 1.702 } }, { outputs, domain: "com.microsoft" });
    },
    gradient: ({ inputs: [x], outputs: [y], upstream, ops }) => {
      const s = ops.sigmoid(ops.mul(x!, 1.702));
      return [ops.mul(upstream, ops.add(s, ops.mul(ops.mul(y!, ops.sub(1, s)), 1.702)))];
    },
  },
  softmax: {
    emit: (emitter, _node, inputs, outputs) => {
      emitter.node("Softmax", inputs, { axis: -1 }, { outputs });
    },
    gradient: ({ outputs: [y], upstream, ops }) => {
      const weighted = ops.mul(upstream, y!);
      return [ops.sub(weighted, ops.mul(y!, ops.reduceSum(weighted, [-1], { keepDims: true })))];
    },
  },
  logSoftmax: {
    emit: (emitter, _node, inputs, outputs) => {
      emitter.node("LogSoftmax", inputs, { axis: -1 }, { outputs });
    },
    gradient: ({ outputs: [y], upstream, ops }) => [
      ops.sub(upstream, ops.mul(ops.exp(y!), ops.reduceSum(upstream, [-1], { keepDims: true }))),
    ],
  },
  layerNorm: {
    emit: (emitter, node, inputs, outputs) => {
      emitter.node(
        "LayerNormalization",
        inputs,
        { axis: -1, epsilon: { float: node.attributes.epsilon } },
        { outputs },
      );
    },
    gradient: ({ inputs: [x, weight, bias], outputs: [, mean, inverse], upstream: g, wants, ops }) => {
      // With c = x - mean, s = g * inverse, p = s * c = g * normal and D the width:
      // dx = s * weight - sum(s * weight) / D - c * inverse^2 * sum(p * weight) / D; sums along rows are products.
      if (!wants[0] && !wants[1]) return [undefined, undefined, ops.sumTo(g, bias!.shape)];
      const centred = ops.sub(x!, mean!);
      const scaled = ops.mul(g, inverse!);
      const product = ops.mul(scaled, centred);
      let dx: Tensor | undefined;
      if (wants[0]) {
        const share = shareOfRow(ops, weight!);
        const along = ops.mul(ops.mul(inverse!, inverse!), ops.matmul(product, share));
        const sloped = ops.sub(ops.mul(scaled, weight!), ops.mul(centred, along));
        dx = ops.sub(sloped, ops.matmul(scaled, share));
      }
      return [
        dx,
        wants[1] ? ops.sumTo(product, weight!.shape) : undefined,
        wants[2] ? ops.sumTo(g, bias!.shape) : undefined,
      ];
    },
  },
  rmsNorm: {
    emit: (emitter, node, inputs, outputs) => {
      const attributes = { axis: -1, epsilon: { float: node.attributes.epsilon }, stash_type: 1 };
      // The runtime registers this kernel under the default domain.
      emitter.node("SimplifiedLayerNormalization", inputs, attributes, { outputs });
    },
    gradient: ({ inputs: [x, weight], outputs: [, inverse], upstream: g, wants, ops }) => {
      // As for layerNorm without its mean.
      const scaled = ops.mul(g, inverse!);
      const product = ops.mul(scaled, x!);
      let dx: Tensor | undefined;
      if (wants[0]) {
        const share = shareOfRow(ops, weight!);
        const along = ops.mul(ops.mul(inverse!, inverse!), ops.matmul(product, share));
        dx = ops.sub(ops.mul(scaled, weight!), ops.mul(x!, along));
      }
      return [dx, wants[1] ? ops.sumTo(product, weight!.shape) : undefined];
    },
  },
};

/** weight / D as a column: rows times it are means of the weighted row. [D] -> [D, 1]. */
function shareOfRow(ops: GradientContext<OpName>["ops"], weight: Tensor): Tensor {
  const width = weight.shape[0]!;
  return ops.div(ops.reshape(weight, [width, 1]), ops.sizeOf(width));
}
