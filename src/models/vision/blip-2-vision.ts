/**
 * The vision transformer inside published BLIP-2 checkpoints (EVA-CLIP's ViT-g/14 with its last block
 * dropped), under the names of Hugging Face's `Blip2VisionModel`. Unlike CLIP's: a bias in the patch
 * projection, no norm before the first block, one matrix for query, key and value, exact GELU; and the
 * norm at the end, LAVIS's `ln_vision`, which belongs to BLIP-2's trained bridge and not to the frozen
 * encoder. Its epsilon differs by source: 1e-5 in LAVIS, the config's 1e-6 in Hugging Face.
 *
 * Shapes: B batch, S image side, P = 1 + floor(S / patch)^2 positions, D width.
 */
import { z } from "zod";
import { expectShape, ops, type Tensor } from "../../engine/index.js";
import { attention } from "../../nn/attention.js";
import { activationNames, activations, LayerNorm, Linear } from "../../nn/layers.js";
import { normal, zeros, type Scope } from "../../nn/parameters.js";
import { gridSide, patchify } from "./patches.js";
import type { VisionOutput } from "./clip-vision.js";

export const blip2VisionConfigSchema = z.looseObject({
  model_type: z.literal("blip_2_vision_model").default("blip_2_vision_model"),
  hidden_size: z.int().positive().default(1408),
  intermediate_size: z.int().positive().default(6144),
  num_hidden_layers: z.int().positive().default(39),
  num_attention_heads: z.int().positive().default(16),
  image_size: z.int().positive().default(224),
  patch_size: z.int().positive().default(14),
  hidden_act: z.enum(activationNames).default("gelu"),
  layer_norm_eps: z.number().positive().default(1e-6),
  /** Of the norm at the end where it differs, as in LAVIS (1e-5). Python's transformers does not know this key. */
  post_layernorm_eps: z.number().positive().optional(),
  qkv_bias: z.boolean().default(true),
});

export type Blip2VisionConfig = z.infer<typeof blip2VisionConfigSchema>;

class Blip2EncoderLayer {
  private readonly norm1: LayerNorm;
  private readonly norm2: LayerNorm;
  private readonly qkv: Linear;
  private readonly projection: Linear;
  private readonly fc1: Linear;
  private readonly fc2: Linear;

  constructor(
    private readonly config: Blip2VisionConfig,
    scope: Scope,
    depth: number,
  ) {
    const { hidden_size: width, intermediate_size: inner } = config;
    this.norm1 = new LayerNorm(scope.at("layer_norm1"), width, config.layer_norm_eps);
    this.norm2 = new LayerNorm(scope.at("layer_norm2"), width, config.layer_norm_eps);
    const init = { weightInit: normal(width ** -0.5) };
    // Residual branches start smaller the deeper they stand, as in EVA.
    const residual = { weightInit: normal(width ** -0.5 / Math.sqrt(2 * depth)) };
    this.qkv = new Linear(scope.at("self_attn", "qkv"), width, 3 * width, { ...init, bias: config.qkv_bias });
    this.projection = new Linear(scope.at("self_attn", "projection"), width, width, residual);
    this.fc1 = new Linear(scope.at("mlp", "fc1"), width, inner, init);
    this.fc2 = new Linear(scope.at("mlp", "fc2"), inner, width, residual);
  }

  /** [B, P, D] -> [B, P, D]. */
  forward(x: Tensor): Tensor {
    const heads = this.config.num_attention_heads;
    const [b, p, d] = x.shape;
    const size = Number(d) / heads;
    // [B, P, 3, H, K] -> [3, B, H, P, K]: one copy for all three.
    const qkv = ops.transpose(
      ops.reshape(this.qkv.forward(this.norm1.forward(x)), [b!, p!, 3, heads, size]),
      [2, 0, 3, 1, 4],
    );
    const part = (index: number): Tensor => ops.select(qkv, 0, index);
    const attended = attention(part(0), { key: part(1), value: part(2) });
    const y = ops.add(x, this.projection.forward(attended));
    const activation = activations[this.config.hidden_act];
    return ops.add(y, this.fc2.forward(activation(this.fc1.forward(this.norm2.forward(y)))));
  }
}

/** `Blip2VisionModel`; `scope` is the checkpoint's `vision_model`. */
export class Blip2VisionModel {
  private readonly classEmbedding: Tensor;
  private readonly patchWeight: Tensor;
  private readonly patchBias: Tensor;
  private readonly positionEmbedding: Tensor;
  private readonly layers: readonly Blip2EncoderLayer[];

  constructor(
    readonly config: Blip2VisionConfig,
    private readonly scope: Scope,
  ) {
    const { hidden_size: width, patch_size: patch } = config;
    const positions = gridSide(config) ** 2 + 1;
    const embeddings = scope.at("embeddings");
    this.classEmbedding = embeddings.tensor("class_embedding", [1, 1, width], normal(0.02));
    this.patchWeight = embeddings
      .at("patch_embedding")
      .tensor("weight", [width, 3, patch, patch], normal((3 * patch * patch) ** -0.5));
    this.patchBias = embeddings.at("patch_embedding").tensor("bias", [width], zeros);
    // Learned, but a new model starts from a grid code: neighbours are then found from the first step on.
    this.positionEmbedding = embeddings.tensor("position_embedding", [1, positions, width], {
      kind: "gridSinusoids",
      amplitude: 0.5,
    });
    this.layers = Array.from(
      { length: config.num_hidden_layers },
      (_, i) => new Blip2EncoderLayer(config, scope.at("encoder", "layers", i), i + 1),
    );
  }

  /** The frozen encoder's features before the last norm. pixelValues: [B, 3, S, S] -> [B, P, D]. */
  features(pixelValues: Tensor): readonly Tensor[] {
    expectShape("BLIP-2 vision", pixelValues, `B 3 ${this.config.image_size} ${this.config.image_size}`);
    const width = this.config.hidden_size;
    const patches = patchify(pixelValues, this.patchWeight, this.patchBias);
    const start = ops.expand(this.classEmbedding, [pixelValues.shape[0]!, 1, width]);
    const hiddenStates = [ops.add(ops.concat([start, patches], 1), this.positionEmbedding)];
    for (const layer of this.layers) hiddenStates.push(layer.forward(hiddenStates.at(-1)!));
    return hiddenStates;
  }

  /** The norm after the encoder (`post_layernorm`, LAVIS `ln_vision`). [B, P, D] -> [B, P, D]. */
  normalise(features: Tensor): Tensor {
    const { hidden_size: width, layer_norm_eps: usual, post_layernorm_eps: epsilon = usual } = this.config;
    return new LayerNorm(this.scope.at("post_layernorm"), width, epsilon).forward(features);
  }

  /** pixelValues: [B, 3, S, S]. */
  forward(pixelValues: Tensor): VisionOutput {
    const hiddenStates = this.features(pixelValues);
    return { hiddenStates, lastHiddenState: this.normalise(hiddenStates.at(-1)!) };
  }
}
