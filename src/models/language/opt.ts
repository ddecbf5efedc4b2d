/**
 * OPT (Zhang et al. 2022), under the names of Hugging Face's `OPTForCausalLM`. Unusual: learned positions
 * whose table starts two rows late and whose index counts real tokens only; ReLU; pre-norm except in the
 * 350m size, which is post-norm, has no final norm and embeds words in a narrower space; head tied to
 * the word table.
 *
 * Shapes: B batch, T new positions, S = past + T positions, D width, V vocabulary, H heads, K head size.
 */
import { z } from "zod";
import { expectShape, ops, subtractDims, integer, type Tensor } from "../../engine/index.js";
import { attention, splitHeads, type KeyValues } from "../../nn/attention.js";
import { causalMask, paddingMask } from "../../nn/attention-masks.js";
import { noDropout, type Dropout } from "../../nn/dropout.js";
import { activationNames, activations, Embedding, LayerNorm, Linear } from "../../nn/layers.js";
import { normal, type Initialiser, type Scope } from "../../nn/parameters.js";
import type { DecoderOnly, DecoderOnlyInputs, DecoderOutput } from "./language-model.js";

export const optConfigSchema = z.looseObject({
  model_type: z.literal("opt").default("opt"),
  vocab_size: z.int().positive().default(50272),
  hidden_size: z.int().positive().default(768),
  num_hidden_layers: z.int().positive().default(12),
  ffn_dim: z.int().positive().default(3072),
  max_position_embeddings: z.int().positive().default(2048),
  do_layer_norm_before: z.boolean().default(true),
  _remove_final_layer_norm: z.boolean().default(false),
  word_embed_proj_dim: z.int().positive().optional(),
  dropout: z.number().min(0).max(1).default(0.1),
  attention_dropout: z.number().min(0).max(1).default(0),
  num_attention_heads: z.int().positive().default(12),
  activation_function: z.enum(activationNames).default("relu"),
  enable_bias: z.boolean().default(true),
  layer_norm_elementwise_affine: z.literal(true).default(true),
  pad_token_id: z.int().nullable().default(1),
  bos_token_id: z.int().nullable().default(2),
  eos_token_id: z
    .union([z.int(), z.array(z.int())])
    .nullable()
    .default(2),
});

export type OptConfig = z.infer<typeof optConfigSchema>;

/** Rows of the position table before the first real position. */
const positionOffset = 2;

/** How a new OPT starts; the published models use a plain normal of 0.02 for everything. */
export interface OptInitialisers {
  readonly words?: Initialiser;
  readonly positions?: Initialiser;
  /** Matrices that read the residual stream. */
  readonly reading?: Initialiser;
  /** Matrices that write to it. */
  readonly writing?: Initialiser;
}

class OptDecoderLayer {
  private readonly query: Linear;
  private readonly key: Linear;
  private readonly value: Linear;
  private readonly out: Linear;
  private readonly attentionNorm: LayerNorm;
  private readonly fc1: Linear;
  private readonly fc2: Linear;
  private readonly finalNorm: LayerNorm;

  constructor(
    private readonly config: OptConfig,
    scope: Scope,
    { reading = normal(0.02), writing = normal(0.02) }: OptInitialisers,
  ) {
    const { hidden_size: width, ffn_dim: inner, enable_bias: bias } = config;
    const init = { bias, weightInit: reading };
    const outInit = { bias, weightInit: writing };
    const self = scope.at("self_attn");
    this.query = new Linear(self.at("q_proj"), width, width, init);
    this.key = new Linear(self.at("k_proj"), width, width, init);
    this.value = new Linear(self.at("v_proj"), width, width, init);
    this.out = new Linear(self.at("out_proj"), width, width, outInit);
    this.attentionNorm = new LayerNorm(scope.at("self_attn_layer_norm"), width, 1e-5);
    this.fc1 = new Linear(scope.at("fc1"), width, inner, init);
    this.fc2 = new Linear(scope.at("fc2"), inner, width, outInit);
    this.finalNorm = new LayerNorm(scope.at("final_layer_norm"), width, 1e-5);
  }

  /** x: [B, T, D] -> [B, T, D] and the keys and values of all S positions. */
  forward(
    x: Tensor,
    past: KeyValues | undefined,
    mask: Tensor,
    dropout: Dropout,
  ): readonly [Tensor, KeyValues] {
    const { num_attention_heads: heads, dropout: rate, do_layer_norm_before: preNorm } = this.config;
    const h = preNorm ? this.attentionNorm.forward(x) : x;
    const split = (layer: Linear): Tensor => splitHeads(layer.forward(h), heads);
    const own = { key: split(this.key), value: split(this.value) };
    const present =
      past === undefined
        ? own
        : { key: ops.concat([past.key, own.key], 2), value: ops.concat([past.value, own.value], 2) };
    const attended = attention(split(this.query), present, {
      mask,
      dropout,
      dropoutRate: this.config.attention_dropout,
    });
    let y = ops.add(x, dropout.apply(this.out.forward(attended), rate));
    if (!preNorm) y = this.attentionNorm.forward(y);
    const activation = activations[this.config.activation_function];
    const inner = this.fc2.forward(activation(this.fc1.forward(preNorm ? this.finalNorm.forward(y) : y)));
    const z = ops.add(y, dropout.apply(inner, rate));
    return [preNorm ? z : this.finalNorm.forward(z), present];
  }
}

/** `OPTForCausalLM`; `scope` is the root of its checkpoint. */
export class Opt implements DecoderOnly {
  readonly kind = "decoder-only";
  readonly hasTiedHead = true;
  readonly wordTable: string;
  private readonly words: Embedding;
  private readonly positions: Embedding;
  private readonly projectIn: Linear | undefined;
  private readonly projectOut: Linear | undefined;
  private readonly layers: readonly OptDecoderLayer[];
  private readonly finalNorm: LayerNorm | undefined;

  constructor(
    readonly config: OptConfig,
    scope: Scope,
    init: OptInitialisers = {},
  ) {
    const width = config.hidden_size;
    const embedSize = config.word_embed_proj_dim ?? width;
    const decoder = scope.at("model", "decoder");
    this.wordTable = decoder.at("embed_tokens", "weight").path;
    this.words = new Embedding(decoder.at("embed_tokens"), config.vocab_size, embedSize, init.words);
    const positionCount = config.max_position_embeddings + positionOffset;
    this.positions = new Embedding(decoder.at("embed_positions"), positionCount, width, init.positions);
    const projected = embedSize !== width;
    this.projectIn = projected
      ? new Linear(decoder.at("project_in"), embedSize, width, { bias: false })
      : undefined;
    this.projectOut = projected
      ? new Linear(decoder.at("project_out"), width, embedSize, { bias: false })
      : undefined;
    this.layers = Array.from(
      { length: config.num_hidden_layers },
      (_, i) => new OptDecoderLayer(config, decoder.at("layers", i), init),
    );
    const hasFinalNorm = config.do_layer_norm_before && !config._remove_final_layer_norm;
    this.finalNorm = hasFinalNorm ? new LayerNorm(decoder.at("final_layer_norm"), width, 1e-5) : undefined;
  }

  get embeddingSize(): number {
    return this.config.word_embed_proj_dim ?? this.config.hidden_size;
  }

  get vocabularySize(): number {
    return this.config.vocab_size;
  }

  get maximumLength(): number {
    return this.config.max_position_embeddings;
  }

  get cache(): DecoderOnly["cache"] {
    const { num_hidden_layers: layers, num_attention_heads: heads, hidden_size: width } = this.config;
    return { layers, heads, headSize: width / heads };
  }

  get hasDropout(): boolean {
    return this.config.dropout > 0 || this.config.attention_dropout > 0;
  }

  /** ids: int64 [B, T] -> [B, T, E]. */
  embed(ids: Tensor): Tensor {
    return this.words.forward(ids);
  }

  forward({ inputsEmbeds, attentionMask, past, dropout = noDropout }: DecoderOnlyInputs): DecoderOutput {
    const sizes = {};
    expectShape("OPT embeddings", inputsEmbeds, `B T ${this.embeddingSize}`, sizes);
    expectShape("OPT attention mask", attentionMask, "B S", sizes);
    const length = inputsEmbeds.shape[1]!;
    // Padding counts as nothing; masked slots read row 1, as the reference does.
    const counted = ops.sub(
      ops.mul(ops.cumulativeSum(attentionMask, 1), attentionMask),
      integer(1 - positionOffset),
    );
    const before = subtractDims(attentionMask.shape[1]!, length);
    const position = this.positions.forward(ops.slice(counted, 1, before, length));
    let x = ops.add(this.projectIn?.forward(inputsEmbeds) ?? inputsEmbeds, position);
    // A single new position may look at everything that is real.
    const mask = length === 1 ? paddingMask(attentionMask) : causalMask(attentionMask, length);
    const present: KeyValues[] = [];
    for (const [i, layer] of this.layers.entries()) {
      const [next, keyValues] = layer.forward(x, past?.[i], mask, dropout);
      x = next;
      present.push(keyValues);
    }
    x = this.finalNorm?.forward(x) ?? x;
    return { lastHiddenState: this.projectOut?.forward(x) ?? x, present };
  }

  /** The tied head. [B, T, E] -> logits [B, T, V]. */
  logits(hidden: Tensor): Tensor {
    return ops.linear(hidden, this.words.weight);
  }
}
