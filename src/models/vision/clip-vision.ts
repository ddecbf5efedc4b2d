/**
 * CLIP's vision transformer (Radford et al. 2021, section 2.4), under the names of Hugging Face's
 * `CLIPVisionModel`. Unusual: no bias in the patch projection, a layer norm before the first block, the
 * activation x * sigmoid(1.702 x) in OpenAI's models. BLIP-2 uses the output of the last but one block
 * (paper section 3.3), so those who only want features build one block fewer.
 *
 * Shapes: B batch, S image side, P = 1 + floor(S / patch)^2 positions, D width.
 */
import { z } from "zod";
import { expectShape, ops, type Tensor } from "../../engine/index.js";
import { attention, splitHeads } from "../../nn/attention.js";
import { activationNames, activations, LayerNorm, Linear } from "../../nn/layers.js";
import { normal, type Scope } from "../../nn/parameters.js";
import { gridSide, patchify } from "./patches.js";

export const clipVisionConfigSchema = z.looseObject({
  model_type: z.literal("clip_vision_model").default("clip_vision_model"),
  hidden_size: z.int().positive(),
  intermediate_size: z.int().positive(),
  num_hidden_layers: z.int().positive(),
  num_attention_heads: z.int().positive(),
  image_size: z.int().positive(),
  patch_size: z.int().positive(),
  hidden_act: z.enum(activationNames).default("quick_gelu"),
  layer_norm_eps: z.number().positive().default(1e-5),
  /** Of the norm between encoder and Q-Former, where a BLIP-2 folder has another one. */
  post_layernorm_eps: z.number().positive().optional(),
});

export type ClipVisionConfig = z.infer<typeof clipVisionConfigSchema>;

class ClipEncoderLayer {
  private readonly norm1: LayerNorm;
  private readonly norm2: LayerNorm;
  private readonly query: Linear;
  private readonly key: Linear;
  private readonly value: Linear;
  private readonly out: Linear;
  private readonly fc1: Linear;
  private readonly fc2: Linear;

  constructor(
    private readonly config: ClipVisionConfig,
    scope: Scope,
  ) {
    const { hidden_size: width, intermediate_size: inner, num_hidden_layers: depth } = config;
    // The starting spread of OpenAI's CLIP: residual branches shrink with depth.
    const into = { weightInit: normal(width ** -0.5) };
    const outOf = { weightInit: normal(width ** -0.5 * (2 * depth) ** -0.5) };
    this.norm1 = new LayerNorm(scope.at("layer_norm1"), width, config.layer_norm_eps);
    this.norm2 = new LayerNorm(scope.at("layer_norm2"), width, config.layer_norm_eps);
    const self = scope.at("self_attn");
    this.query = new Linear(self.at("q_proj"), width, width, into);
    this.key = new Linear(self.at("k_proj"), width, width, into);
    this.value = new Linear(self.at("v_proj"), width, width, into);
    this.out = new Linear(self.at("out_proj"), width, width, outOf);
    this.fc1 = new Linear(scope.at("mlp", "fc1"), width, inner, { weightInit: normal((2 * width) ** -0.5) });
    this.fc2 = new Linear(scope.at("mlp", "fc2"), inner, width, outOf);
  }

  /** [B, P, D] -> [B, P, D]. */
  forward(x: Tensor): Tensor {
    const heads = this.config.num_attention_heads;
    const h = this.norm1.forward(x);
    const split = (layer: Linear): Tensor => splitHeads(layer.forward(h), heads);
    const attended = attention(split(this.query), { key: split(this.key), value: split(this.value) });
    const y = ops.add(x, this.out.forward(attended));
    const activation = activations[this.config.hidden_act];
    return ops.add(y, this.fc2.forward(activation(this.fc1.forward(this.norm2.forward(y)))));
  }
}

export interface VisionOutput {
  /** The input of the first block and the output of each block, [B, P, D]. */
  readonly hiddenStates: readonly Tensor[];
  /** What the model's class returns as `last_hidden_state`, [B, P, D]. */
  readonly lastHiddenState: Tensor;
}

/** `CLIPVisionModel`; `scope` is the checkpoint's `vision_model`. */
export class ClipVisionModel {
  private readonly classEmbedding: Tensor;
  private readonly patchEmbedding: Tensor;
  private readonly positionEmbedding: Tensor;
  private readonly preNorm: LayerNorm;
  private readonly layers: readonly ClipEncoderLayer[];
  private readonly postNorm: LayerNorm;

  constructor(
    readonly config: ClipVisionConfig,
    scope: Scope,
  ) {
    const { hidden_size: width, patch_size: patch } = config;
    const positions = gridSide(config) ** 2 + 1;
    const embeddings = scope.at("embeddings");
    this.classEmbedding = embeddings.tensor("class_embedding", [width], normal(width ** -0.5));
    this.patchEmbedding = embeddings
      .at("patch_embedding")
      .tensor("weight", [width, 3, patch, patch], normal(0.02));
    this.positionEmbedding = embeddings
      .at("position_embedding")
      .tensor("weight", [positions, width], normal(0.02));
    // The missing "e" is the checkpoint's own spelling.
    this.preNorm = new LayerNorm(scope.at("pre_layrnorm"), width, config.layer_norm_eps);
    this.layers = Array.from(
      { length: config.num_hidden_layers },
      (_, i) => new ClipEncoderLayer(config, scope.at("encoder", "layers", i)),
    );
    this.postNorm = new LayerNorm(scope.at("post_layernorm"), width, config.layer_norm_eps);
  }

  /** pixelValues: [B, 3, S, S]. */
  forward(pixelValues: Tensor): VisionOutput {
    expectShape("CLIP vision", pixelValues, `B 3 ${this.config.image_size} ${this.config.image_size}`);
    const patches = patchify(pixelValues, this.patchEmbedding);
    const width = this.config.hidden_size;
    const start = ops.expand(ops.reshape(this.classEmbedding, [1, 1, width]), [
      pixelValues.shape[0]!,
      1,
      width,
    ]);
    const embedded = ops.add(ops.concat([start, patches], 1), this.positionEmbedding);
    const hiddenStates = [this.preNorm.forward(embedded)];
    for (const layer of this.layers) hiddenStates.push(layer.forward(hiddenStates.at(-1)!));
    return { hiddenStates, lastHiddenState: hiddenStates.at(-1)! };
  }

  /** The pooled output [B, D]: the class position after the last norm. */
  pool(lastHiddenState: Tensor): Tensor {
    return this.postNorm.forward(ops.select(lastHiddenState, 1, 0));
  }
}
