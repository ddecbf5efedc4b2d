/** Activations, softmax and normalisations: the ops whose kernels the runtime fuses. */
import { InternalError } from "../../errors.js";
import { showShape } from "../dims.js";
import { makeNode, makeTensor, type Tensor } from "../graph.js";
import { single, type RuleTable } from "./rule.js";

export function relu(x: Tensor): Tensor {
  return makeTensor("relu", [x], {}, x.dtype, x.shape);
}

/** 0.5 x (1 + erf(x / sqrt 2)), or its tanh approximation. */
export function gelu(x: Tensor, approximate: "none" | "tanh" = "none"): Tensor {
  return makeTensor("gelu", [x], { approximate }, x.dtype, x.shape);
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
  return makeTensor("rmsNorm", [x, weight], { epsilon }, x.dtype, x.shape);
}

const sqrtHalf = Math.SQRT1_2;

export const activationRules: RuleTable<
  "relu" | "gelu" | "quickGelu" | "softmax" | "logSoftmax" | "layerNorm" | "rmsNorm"
> = {
  relu: {
    emit: single("Relu"),
    gradient: ({ outputs: [y], upstream, ops }) => [ops.where(ops.less(0, y!), upstream, 0)],
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
      // dy = Phi(x) + x phi(x)
      const z = ops.mul(x!, sqrtHalf);
      const phi = ops.exp(ops.neg(ops.mul(z, z)));
      const slope = ops.add(
        ops.mul(ops.mul(z, phi), 1 / Math.sqrt(Math.PI)),
        ops.mul(ops.add(ops.erf(z), 1), 0.5),
      );
      return [ops.mul(upstream, slope)];
    },
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
      const normal = wants[0] || wants[1] ? ops.mul(ops.sub(x!, mean!), inverse!) : undefined;
      let dx: Tensor | undefined;
      if (wants[0]) {
        // dx = inverse * (h - mean(h) - normal * mean(h * normal)) with h = g * weight
        const h = ops.mul(g, weight!);
        const along = ops.reduceMean(ops.mul(h, normal!), [-1], { keepDims: true });
        const centre = ops.reduceMean(h, [-1], { keepDims: true });
        dx = ops.mul(ops.sub(ops.sub(h, centre), ops.mul(normal!, along)), inverse!);
      }
      return [
        dx,
        wants[1] ? ops.sumTo(ops.mul(g, normal!), weight!.shape) : undefined,
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
    gradient: ({ node, inputs: [x, weight], upstream: g, wants, ops }) => {
      const variance = ops.reduceMean(ops.mul(x!, x!), [-1], { keepDims: true });
      const inverse = ops.div(1, ops.sqrt(ops.add(variance, node.attributes.epsilon)));
      const normal = ops.mul(x!, inverse);
      let dx: Tensor | undefined;
      if (wants[0]) {
        const h = ops.mul(g, weight!);
        const along = ops.reduceMean(ops.mul(h, normal), [-1], { keepDims: true });
        dx = ops.mul(ops.sub(h, ops.mul(normal, along)), inverse);
      }
      return [dx, wants[1] ? ops.sumTo(ops.mul(g, normal), weight!.shape) : undefined];
    },
  },
};
