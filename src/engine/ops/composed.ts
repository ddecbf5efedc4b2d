/** Common formulas written with the primitive ops; their gradients follow. */
import { multiplyDims } from "../dims.js";
import type { Tensor } from "../graph.js";
import { abs, add, div, exp, log, maximum, mul, neg, sqrt, sub } from "./elementwise.js";
import { gemm } from "./linear-algebra.js";
import { reshape } from "./movement.js";
import { keepMask } from "./random.js";
import { reduceSum } from "./reduction.js";

/** x W^T + bias as PyTorch stores it. x: [..., K], weight: [N, K], bias: [N] -> [..., N]. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const lead = x.shape.slice(0, -1);
  const flat = reshape(x, [multiplyDims(...lead), x.shape.at(-1)!]);
  return reshape(gemm(flat, weight, { transB: true }, bias), [...lead, weight.shape[0]!]);
}

/** Rows scaled to unit length, as torch.nn.functional.normalize: x / max(|x|, 1e-12). x: [..., D]. */
export function l2Normalize(x: Tensor): Tensor {
  // Under the root, where the gradient at zero stays finite: sqrt(max(s, 1e-24)) = max(sqrt s, 1e-12).
  const square = maximum(reduceSum(mul(x, x), [-1], { keepDims: true }), 1e-24);
  return div(x, sqrt(square));
}

/** Zeroes a share `rate` of the values and scales the rest up; the draw is stream `stream` of `seed`. */
export function dropout(x: Tensor, rate: number, seed: Tensor, stream: number): Tensor {
  return rate === 0 ? x : mul(x, keepMask(seed, stream, rate, x.shape));
}

/** log(1 + e^x), stable for large |x|. */
function softplus(x: Tensor): Tensor {
  return add(maximum(x, 0), log(add(exp(neg(abs(x))), 1)));
}

/** Binary cross-entropy of a logit against a target in [0, 1], elementwise. */
export function binaryCrossEntropyWithLogits(logit: Tensor, target: Tensor): Tensor {
  return sub(softplus(logit), mul(logit, target));
}
