/**
 * 4 post-norm layers as in BERT, loss the mean of squares, gradients of all weights; the work `postnorm` of
 * reference/bench_training_step.py.
 */
import { input, ops, type HostTensors, type Tensor } from "../src/engine/index.js";
import { attention, splitHeads } from "../src/nn/attention.js";
import { initialise } from "../src/nn/initialise.js";
import { LayerNorm, Linear } from "../src/nn/layers.js";
import { Parameters, type Scope } from "../src/nn/parameters.js";
import type { Work } from "./work.js";

interface Size {
  readonly batch: number;
  readonly tokens: number;
  readonly width: number;
  readonly ffn: number;
  readonly heads: number;
  readonly layers: number;
}

const size: Size = { batch: 8, tokens: 64, width: 768, ffn: 3072, heads: 12, layers: 4 };

/** One post-norm layer. [B, T, D] -> [B, T, D]. */
class Layer {
  private readonly parts;
  private readonly heads: number;

  constructor(scope: Scope, { width, ffn, heads }: Size) {
    this.heads = heads;
    this.parts = {
      query: new Linear(scope.at("query"), width, width),
      key: new Linear(scope.at("key"), width, width),
      value: new Linear(scope.at("value"), width, width),
      output: new Linear(scope.at("output"), width, width),
      norm1: new LayerNorm(scope.at("norm1"), width, 1e-12),
      fc1: new Linear(scope.at("fc1"), width, ffn),
      fc2: new Linear(scope.at("fc2"), ffn, width),
      norm2: new LayerNorm(scope.at("norm2"), width, 1e-12),
    };
  }

  forward(x: Tensor): Tensor {
    const { query, key, value, output, norm1, fc1, fc2, norm2 } = this.parts;
    const [q, k, v] = [query, key, value].map((part) => splitHeads(part.forward(x), this.heads));
    const mixed = attention(q!, { key: k!, value: v! });
    const y = norm1.forward(ops.add(x, output.forward(mixed)));
    return norm2.forward(ops.add(y, fc2.forward(ops.gelu(fc1.forward(y)))));
  }
}

export function postNormWork(): Work {
  const { batch, tokens, width, ffn, layers } = size;
  const parameters = new Parameters(() => true);
  let x = input("x", "float32", [batch, tokens, width]);
  for (let i = 0; i < layers; i++) x = new Layer(parameters.scope().at("layer", i), size).forward(x);
  const rows = batch * tokens;
  const forward = layers * (2 * rows * width * (4 * width + 2 * ffn) + 4 * rows * tokens * width);
  return {
    title: `${layers} post-norm layers, batch ${batch}, ${tokens} tokens, width ${width}`,
    peerArguments: () => ["--work", "postnorm"],
    parameters: parameters.trainable,
    loss: ops.reduceMean(ops.mul(x, x)),
    inputs: () => randomInput([batch, tokens, width]),
    flops: 3 * forward,
  };
}

function randomInput(dims: readonly number[]): HostTensors {
  const shape = { name: "x", shape: dims, initialiser: { kind: "normal", std: 1 } } as const;
  return Object.fromEntries(
    initialise([{ ...shape, trainable: false, tensor: input("x", "float32", dims) }], 1),
  );
}
