/**
 * The graph of what queries look at: the Q-Former's cross-attention probabilities as outputs, and as what the match
 * logit is differentiated by.
 *
 * Shapes: B pictures, L layers with cross-attention, H heads, Q queries, P image positions.
 */
import { gradients, ops, type Tensor } from "../engine/index.js";
import { InternalError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import type { ImageAttention } from "./attention-maps.js";
import { gridSide } from "./vision/patches.js";
import { crossAttentionLayers, type CrossAttentionObserver, type QFormerConfig } from "./q-former.js";

/** Keeps the probabilities of a graph as it is built: pass `observe` to the run of the Q-Former. */
export class CrossAttentionRecord {
  private readonly seen: Tensor[] = [];

  readonly observe: CrossAttentionObserver = (_, probabilities) => {
    this.seen.push(probabilities);
  };

  /** -> [B, L, H, Q, P], layers from the first on. */
  probabilities(): Tensor {
    return stacked(this.seen);
  }

  /** Of the sum of `values`, which may be of any shape, by the probabilities. -> [B, L, H, Q, P]. */
  gradients(values: Tensor): Tensor {
    return stacked(gradients(ops.reduceSum(values), this.seen));
  }
}

/** L times [B, H, Q, P] -> [B, L, H, Q, P]. */
function stacked(layers: readonly Tensor[]): Tensor {
  return ops.concat(
    layers.map((layer) => {
      const [b, h, q, p] = layer.shape;
      return ops.reshape(layer, [b!, 1, h!, q!, p!]);
    }),
    1,
  );
}

interface AttendingConfig {
  readonly vision_config: { readonly image_size: number; readonly patch_size: number };
  readonly qformer_config: QFormerConfig;
}

/** What a model's queries have seen of one picture. probabilities: [1, L, H, Q, P]. */
export function imageAttention(config: AttendingConfig, probabilities: HostTensor): ImageAttention {
  const { image_size: size, patch_size: patch } = config.vision_config;
  const [batch, layerCount, heads, queries, positions] = probabilities.dims;
  const layers = crossAttentionLayers(config.qformer_config);
  const side = gridSide(config.vision_config);
  const firstPatch = positions! - side ** 2;
  if (batch !== 1 || layerCount !== layers.length || firstPatch !== 1) {
    throw new InternalError(`attention of [${probabilities.dims.join(", ")}] for a grid of ${side} patches`);
  }
  return {
    probabilities: probabilities.data as Float32Array,
    dims: [layerCount, heads!, queries!, positions!],
    layers,
    grid: { rows: side, columns: side, covered: (side * patch) / size },
    firstPatch,
  };
}
