/** Multi-head attention. Shapes: B batch, T query positions, S key positions, H heads, K head size. */
import { ops, type Tensor } from "../engine/index.js";
import { noDropout, type Dropout } from "./dropout.js";

/** Keys and values of one attention layer, split into heads: [B, H, S, K] each. */
export interface KeyValues {
  readonly key: Tensor;
  readonly value: Tensor;
}

/** [B, T, H*K] -> [B, H, T, K]. */
export function splitHeads(x: Tensor, heads: number): Tensor {
  const [b, t, d] = x.shape as readonly [Tensor["shape"][number], Tensor["shape"][number], number];
  return ops.transpose(ops.reshape(x, [b, t, heads, d / heads]), [0, 2, 1, 3]);
}

/** [B, H, T, K] -> [B, T, H*K]. */
export function mergeHeads(x: Tensor): Tensor {
  const [b, h, t, k] = x.shape as readonly [Tensor["shape"][number], number, Tensor["shape"][number], number];
  return ops.reshape(ops.transpose(x, [0, 2, 1, 3]), [b, t, h * k]);
}

export interface AttentionOptions {
  /** Factor on the scores; 1 / sqrt(K) when not given. */
  readonly scale?: number;
  /** Added to the scores; broadcasts to [B, H, T, S]. */
  readonly mask?: Tensor | undefined;
  readonly dropout?: Dropout;
  readonly dropoutRate?: number;
  /** Is shown the probabilities before dropout, [B, H, T, S], as the graph is built: to output or differentiate them. */
  readonly observe?: ((probabilities: Tensor) => void) | undefined;
}

/**
 * softmax(scale q k^T + mask) v, heads merged.
 * query: [B, H, T, K], key and value: [B, H, S, K] -> [B, T, H*K].
 */
export function attention(query: Tensor, { key, value }: KeyValues, options: AttentionOptions = {}): Tensor {
  const size = query.shape.at(-1) as number;
  const scores = ops.matmul(query, key, { transB: true, alpha: options.scale ?? size ** -0.5 });
  const masked = options.mask === undefined ? scores : ops.add(scores, options.mask);
  const probabilities = ops.softmax(masked);
  options.observe?.(probabilities);
  const weights = (options.dropout ?? noDropout).apply(probabilities, options.dropoutRate ?? 0);
  return mergeHeads(ops.matmul(weights, value));
}
