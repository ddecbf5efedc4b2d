/** The layers that every model here is made of. Shapes: B batch, T positions, D width. */
import { ops, type Tensor } from "../engine/index.js";
import { normal, ones, zeros, type Initialiser, type Scope } from "./parameters.js";

export interface LinearOptions {
  readonly bias?: boolean;
  readonly weightInit?: Initialiser;
  readonly biasInit?: Initialiser;
}

/** x W^T + b with `weight` [out, in] and `bias` [out], as PyTorch stores them. */
export class Linear {
  readonly weight: Tensor;
  readonly bias: Tensor | undefined;

  constructor(scope: Scope, inSize: number, outSize: number, options: LinearOptions = {}) {
    this.weight = scope.tensor("weight", [outSize, inSize], options.weightInit ?? normal(0.02));
    this.bias =
      (options.bias ?? true) ? scope.tensor("bias", [outSize], options.biasInit ?? zeros) : undefined;
  }

  /** [..., in] -> [..., out]. */
  forward(x: Tensor): Tensor {
    return ops.linear(x, this.weight, this.bias);
  }
}

/** PyTorch's default start of a Linear: uniform within 1 / sqrt(in), weight and bias. */
export function torchLinearInit(inSize: number): LinearOptions {
  const init: Initialiser = { kind: "uniform", bound: 1 / Math.sqrt(inSize) };
  return { weightInit: init, biasInit: init };
}

/** Layer normalisation over the last axis, `weight` and `bias` [D]. */
export class LayerNorm {
  private readonly weight: Tensor;
  private readonly bias: Tensor;

  constructor(
    scope: Scope,
    size: number,
    private readonly epsilon: number,
  ) {
    this.weight = scope.tensor("weight", [size], ones);
    this.bias = scope.tensor("bias", [size], zeros);
  }

  forward(x: Tensor): Tensor {
    return ops.layerNorm(x, this.weight, this.bias, this.epsilon);
  }
}

/** T5's norm: no mean and no bias. Over the last axis, `weight` [D]. */
export class RmsNorm {
  private readonly weight: Tensor;

  constructor(
    scope: Scope,
    size: number,
    private readonly epsilon: number,
  ) {
    this.weight = scope.tensor("weight", [size], ones);
  }

  forward(x: Tensor): Tensor {
    return ops.rmsNorm(x, this.weight, this.epsilon);
  }
}

/** A table of rows, `weight` [count, D]. */
export class Embedding {
  readonly weight: Tensor;

  constructor(scope: Scope, count: number, size: number, init: Initialiser = normal(0.02)) {
    this.weight = scope.tensor("weight", [count, size], init);
  }

  /** ids int64 [...] -> [..., D]. */
  forward(ids: Tensor): Tensor {
    return ops.gatherRows(this.weight, ids);
  }
}

/** The activations that published configs name. */
export const activations = {
  gelu: (x: Tensor): Tensor => ops.gelu(x),
  gelu_new: (x: Tensor): Tensor => ops.gelu(x, "tanh"),
  gelu_pytorch_tanh: (x: Tensor): Tensor => ops.gelu(x, "tanh"),
  quick_gelu: (x: Tensor): Tensor => ops.quickGelu(x),
  relu: (x: Tensor): Tensor => ops.relu(x),
  silu: (x: Tensor): Tensor => ops.mul(x, ops.sigmoid(x)),
} as const;

export type ActivationName = keyof typeof activations;
export const activationNames = Object.keys(activations) as [ActivationName, ...ActivationName[]];
