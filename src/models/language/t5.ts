/**
 * T5 and T5 v1.1 (Raffel et al. 2020; Shazeer 2020; FLAN-T5 is a v1.1), under the names of Hugging Face's
 * `T5ForConditionalGeneration`. An encoder and a decoder that looks at it. Unusual: relative positions only,
 * whose biases block 0 holds for its whole stack; attention scores are not scaled; heads of any size; norms
 * without mean; no bias anywhere; a tied head reads scaled outputs, an untied one does not.
 *
 * Shapes: B batch, S encoder positions, T new decoder positions, P decoder positions before, D width,
 * V vocabulary, H heads, K head size.
 */
import { z } from "zod";
import { expectShape, ops, type Tensor } from "../../engine/index.js";
import { attention, splitHeads, type KeyValues } from "../../nn/attention.js";
import { causalMask, paddingMask } from "../../nn/attention-masks.js";
import { noDropout, type Dropout } from "../../nn/dropout.js";
import {
  activationNames,
  activations,
  Embedding,
  Linear,
  RmsNorm,
  type ActivationName,
} from "../../nn/layers.js";
import { normal, type Initialiser, type Scope } from "../../nn/parameters.js";
import { RelativePositionBias } from "../../nn/relative-position.js";
import type { DecoderInputs, DecoderOutput, EncoderDecoder, EncoderInputs } from "./language-model.js";

const activationSchema = z.enum(activationNames);

const fields = z.looseObject({
  model_type: z.literal("t5"),
  vocab_size: z.int().positive().default(32128),
  d_model: z.int().positive().default(512),
  d_kv: z.int().positive().default(64),
  d_ff: z.int().positive().default(2048),
  num_layers: z.int().positive().default(6),
  /** As many as the encoder's where absent. */
  num_decoder_layers: z.int().positive().nullish(),
  num_heads: z.int().positive().default(8),
  relative_attention_num_buckets: z.int().min(4).default(32),
  relative_attention_max_distance: z.int().positive().default(128),
  dropout_rate: z.number().min(0).max(1).default(0.1),
  layer_norm_epsilon: z.number().positive().default(1e-6),
  feed_forward_proj: z.string().default("relu"),
  /** Goes before what `feed_forward_proj` says: BLIP-2's T5 is "gated-gelu" with the exact gelu. */
  dense_act_fn: activationSchema.nullish(),
  is_gated_act: z.boolean().nullish(),
  tie_word_embeddings: z.boolean().default(true),
  /** Written by transformers 5, which always says that embeddings are tied. */
  scale_decoder_outputs: z.boolean().nullish(),
  pad_token_id: z.int().nullable().default(0),
  bos_token_id: z.int().nullable().default(null),
  eos_token_id: z
    .union([z.int(), z.array(z.int())])
    .nullable()
    .default(1),
  decoder_start_token_id: z.int().nullish(),
});

export const t5ConfigSchema = fields
  .refine(
    ({ dense_act_fn, feed_forward_proj }) =>
      (dense_act_fn ?? namedActivation(feed_forward_proj)) !== undefined,
    {
      path: ["feed_forward_proj"],
      message: `one of ${activationNames.join(", ")}, or one of them behind "gated-", is required`,
    },
  )
  .refine((config) => config.relative_attention_max_distance > config.relative_attention_num_buckets / 2, {
    path: ["relative_attention_max_distance"],
    message: "more than half of relative_attention_num_buckets is required",
  });

export type T5Config = z.infer<typeof t5ConfigSchema>;

/** What `feed_forward_proj` means; the plain name "gelu" behind "gated-" is the tanh approximation. */
function namedActivation(projection: string): ActivationName | undefined {
  if (projection === "gated-gelu") return "gelu_new";
  return activationSchema.safeParse(projection.replace(/^gated-/, "")).data;
}

const decoderDepth = ({ num_decoder_layers, num_layers }: T5Config): number =>
  num_decoder_layers ?? num_layers;

class T5Attention {
  private readonly query: Linear;
  private readonly key: Linear;
  private readonly value: Linear;
  private readonly out: Linear;

  constructor(
    private readonly config: T5Config,
    scope: Scope,
  ) {
    const { d_model: width, d_kv: size, num_heads: heads } = config;
    const linear = (name: string, from: number, to: number, std: number): Linear =>
      new Linear(scope.at(name), from, to, { bias: false, weightInit: normal(std) });
    const inner = heads * size;
    this.query = linear("q", width, inner, (width * size) ** -0.5);
    this.key = linear("k", width, inner, width ** -0.5);
    this.value = linear("v", width, inner, width ** -0.5);
    this.out = linear("o", inner, width, inner ** -0.5);
  }

  /** x: [B, S, D] -> [B, H, S, K] each. */
  keyValues(x: Tensor): KeyValues {
    const { num_heads: heads } = this.config;
    return { key: splitHeads(this.key.forward(x), heads), value: splitHeads(this.value.forward(x), heads) };
  }

  /** x: [B, T, D], mask with biases broadcasting to [B, H, T, S] -> [B, T, D]. */
  forward(x: Tensor, keyValues: KeyValues, mask: Tensor, dropout: Dropout): Tensor {
    const query = splitHeads(this.query.forward(x), this.config.num_heads);
    const options = { scale: 1, mask, dropout, dropoutRate: this.config.dropout_rate };
    return this.out.forward(attention(query, keyValues, options));
  }
}

class T5FeedForward {
  private readonly inner: readonly Linear[];
  private readonly out: Linear;
  private readonly activation: (x: Tensor) => Tensor;

  constructor(
    private readonly config: T5Config,
    scope: Scope,
  ) {
    const { d_model: width, d_ff: size, feed_forward_proj: projection } = config;
    const linear = (name: string, from: number, to: number): Linear =>
      new Linear(scope.at(name), from, to, { bias: false, weightInit: normal(from ** -0.5) });
    const isGated = config.is_gated_act ?? projection.startsWith("gated-");
    this.inner = (isGated ? ["wi_0", "wi_1"] : ["wi"]).map((name) => linear(name, width, size));
    this.out = linear("wo", size, width);
    this.activation = activations[config.dense_act_fn ?? namedActivation(projection)!];
  }

  /** [B, T, D] -> [B, T, D]. */
  forward(x: Tensor, dropout: Dropout): Tensor {
    const [first, gate] = this.inner;
    const active = this.activation(first!.forward(x));
    const inner = gate === undefined ? active : ops.mul(active, gate.forward(x));
    return this.out.forward(dropout.apply(inner, this.config.dropout_rate));
  }
}

/** A residual step: x + dropout(layer(norm(x))). */
class Step<Layer> {
  readonly norm: RmsNorm;

  constructor(
    private readonly config: T5Config,
    readonly layer: Layer,
    scope: Scope,
  ) {
    this.norm = new RmsNorm(scope.at("layer_norm"), config.d_model, config.layer_norm_epsilon);
  }

  add(x: Tensor, y: Tensor, dropout: Dropout): Tensor {
    return ops.add(x, dropout.apply(y, this.config.dropout_rate));
  }
}

class T5Block {
  private readonly self: Step<T5Attention>;
  /** The decoder's look at the encoder. */
  readonly cross: Step<T5Attention> | undefined;
  private readonly feedForward: Step<T5FeedForward>;

  constructor(config: T5Config, scope: Scope, isDecoder: boolean) {
    const at = (i: number): Scope => scope.at("layer", i);
    const [self, cross, last] = [at(0), at(1), at(isDecoder ? 2 : 1)];
    this.self = new Step(config, new T5Attention(config, self.at("SelfAttention")), self);
    this.cross = isDecoder
      ? new Step(config, new T5Attention(config, cross.at("EncDecAttention")), cross)
      : undefined;
    this.feedForward = new Step(config, new T5FeedForward(config, last.at("DenseReluDense")), last);
  }

  /** x: [B, T, D] -> [B, T, D], and the keys and values of all P + T positions. */
  forward(
    x: Tensor,
    past: KeyValues | undefined,
    mask: Tensor,
    dropout: Dropout,
    encoder?: { readonly keyValues: KeyValues; readonly mask: Tensor },
  ): readonly [Tensor, KeyValues] {
    const h = this.self.norm.forward(x);
    const own = this.self.layer.keyValues(h);
    const present =
      past === undefined
        ? own
        : { key: ops.concat([past.key, own.key], 2), value: ops.concat([past.value, own.value], 2) };
    let y = this.self.add(x, this.self.layer.forward(h, present, mask, dropout), dropout);
    if (this.cross !== undefined && encoder !== undefined) {
      const { layer, norm } = this.cross;
      const seen = layer.forward(norm.forward(y), encoder.keyValues, encoder.mask, dropout);
      y = this.cross.add(y, seen, dropout);
    }
    const { layer, norm } = this.feedForward;
    return [this.feedForward.add(y, layer.forward(norm.forward(y), dropout), dropout), present];
  }
}

/** How the biases of a stack start, whose buckets tell the two directions apart or not. */
export type PositionInit = (bidirectional: boolean) => Initialiser;

class T5Stack {
  readonly blocks: readonly T5Block[];
  readonly positions: RelativePositionBias;
  readonly finalNorm: RmsNorm;

  constructor(config: T5Config, scope: Scope, depth: number, isDecoder: boolean, positionInit: PositionInit) {
    const table = scope.at("block", 0, "layer", 0, "SelfAttention", "relative_attention_bias");
    this.blocks = Array.from(
      { length: depth },
      (_, i) => new T5Block(config, scope.at("block", i), isDecoder),
    );
    this.positions = new RelativePositionBias(
      table,
      config.num_heads,
      {
        buckets: config.relative_attention_num_buckets,
        maxDistance: config.relative_attention_max_distance,
        bidirectional: !isDecoder,
      },
      positionInit(!isDecoder),
    );
    this.finalNorm = new RmsNorm(scope.at("final_layer_norm"), config.d_model, config.layer_norm_epsilon);
  }
}

const wordTables = ["shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"];

/** Whether a tensor, by its name in a T5 checkpoint, may be there without being read: it copies or does nothing. */
export function isUnreadT5Tensor(name: string): boolean {
  return (
    wordTables.some((table) => name === `${table}.weight`) ||
    name === "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
  );
}

/** `T5ForConditionalGeneration`; `scope` is the root of its checkpoint. */
export class T5 implements EncoderDecoder {
  readonly kind = "encoder-decoder";
  /** Positions are relative: there is no longest sequence. */
  readonly maximumLength = Infinity;
  readonly hasTiedHead: boolean;
  /** The name of the word table, which checkpoints have under several. */
  readonly wordTable: string;
  private readonly words: Embedding;
  private readonly head: Tensor;
  private readonly encoder: T5Stack;
  private readonly decoder: T5Stack;

  /**
   * @param stored says which tensors a checkpoint has, by full name. A checkpoint with `lm_head` has a head of its
   * own, whatever its config says, and one without is tied; transformers 5 decides alike. The word table is
   * `shared`, or the one copy of it that was kept. Without a checkpoint the config decides.
   * @param positionInit says how position biases start where there is no checkpoint.
   */
  constructor(
    readonly config: T5Config,
    scope: Scope,
    stored?: { has(name: string): boolean },
    positionInit: PositionInit = () => normal(config.d_model ** -0.5),
  ) {
    const { d_model: width, vocab_size: count } = config;
    const has = (table: string): boolean => stored?.has(scope.at(table, "weight").path) ?? false;
    const kept = wordTables.find(has) ?? "shared";
    this.wordTable = scope.at(kept, "weight").path;
    this.words = new Embedding(scope.at(kept), count, width, normal(1));
    const isOwn = stored === undefined ? !config.tie_word_embeddings : has("lm_head");
    this.hasTiedHead = !isOwn;
    this.head = isOwn
      ? new Embedding(scope.at("lm_head"), count, width, normal(width ** -0.5)).weight
      : this.words.weight;
    this.encoder = new T5Stack(config, scope.at("encoder"), config.num_layers, false, positionInit);
    this.decoder = new T5Stack(config, scope.at("decoder"), decoderDepth(config), true, positionInit);
  }

  get embeddingSize(): number {
    return this.config.d_model;
  }

  get vocabularySize(): number {
    return this.config.vocab_size;
  }

  get cache(): EncoderDecoder["cache"] {
    const { num_heads: heads, d_kv: headSize } = this.config;
    return { layers: decoderDepth(this.config), heads, headSize };
  }

  get hasDropout(): boolean {
    return this.config.dropout_rate > 0;
  }

  /** ids: int64 [B, T] -> [B, T, D]. */
  embed(ids: Tensor): Tensor {
    return this.words.forward(ids);
  }

  /** -> [B, S, D]. */
  encode({ inputsEmbeds, attentionMask, dropout = noDropout }: EncoderInputs): Tensor {
    const sizes = {};
    expectShape("T5 encoder embeddings", inputsEmbeds, `B S ${this.embeddingSize}`, sizes);
    expectShape("T5 encoder mask", attentionMask, "B S", sizes);
    const length = inputsEmbeds.shape[1]!;
    const rate = this.config.dropout_rate;
    const mask = ops.add(this.encoder.positions.forward(length, length), paddingMask(attentionMask));
    let x = dropout.apply(inputsEmbeds, rate);
    for (const block of this.encoder.blocks) [x] = block.forward(x, undefined, mask, dropout);
    return dropout.apply(this.encoder.finalNorm.forward(x), rate);
  }

  /** What the decoder's layers look at, computed once. encoded: [B, S, D] -> per decoder layer. */
  encoderKeyValues(encoded: Tensor): readonly KeyValues[] {
    return this.decoder.blocks.map(({ cross }) => cross!.layer.keyValues(encoded));
  }

  decode(inputs: DecoderInputs): DecoderOutput {
    const { inputsEmbeds, attentionMask, encoder, encoderMask, past, dropout = noDropout } = inputs;
    const sizes = {};
    expectShape("T5 decoder embeddings", inputsEmbeds, `B T ${this.embeddingSize}`, sizes);
    expectShape("T5 decoder mask", attentionMask, "B A", sizes);
    expectShape("T5 encoder mask", encoderMask, "B S", sizes);
    const [length, total] = [inputsEmbeds.shape[1]!, attentionMask.shape[1]!];
    const rate = this.config.dropout_rate;
    const mask = ops.add(this.decoder.positions.forward(length, total), causalMask(attentionMask, length));
    const seen = paddingMask(encoderMask);
    let x = dropout.apply(inputsEmbeds, rate);
    const present: KeyValues[] = [];
    for (const [i, block] of this.decoder.blocks.entries()) {
      const [next, keyValues] = block.forward(x, past?.[i], mask, dropout, {
        keyValues: encoder[i]!,
        mask: seen,
      });
      x = next;
      present.push(keyValues);
    }
    return { lastHiddenState: dropout.apply(this.decoder.finalNorm.forward(x), rate), present };
  }

  /** [B, T, D] -> logits [B, T, V]. */
  logits(hidden: Tensor): Tensor {
    const { scale_decoder_outputs: scales, tie_word_embeddings: tied, d_model: width } = this.config;
    return ops.linear((scales ?? tied) ? ops.mul(hidden, width ** -0.5) : hidden, this.head);
  }
}
