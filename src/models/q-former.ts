/**
 * The Querying Transformer (paper section 3.1), under the names of Hugging Face's
 * `Blip2QFormerModel`. A BERT in which learned queries and text share self-attention but not the
 * feed-forward network; only queries look at the image, in every `cross_attention_frequency`-th layer.
 * Post-norm throughout; one norm over the joined embeddings; position embeddings for text alone.
 *
 * Shapes: B batch, Q queries, T text positions, P image positions, D width, H heads, K head size.
 */
import { z } from "zod";
import { expectShape, ops, subtractDims, type Dim, type Tensor } from "../engine/index.js";
import { InternalError } from "../errors.js";
import { attention, splitHeads, type KeyValues } from "../nn/attention.js";
import { noDropout, type Dropout } from "../nn/dropout.js";
import { activationNames, activations, Embedding, LayerNorm, Linear } from "../nn/layers.js";
import { normal, zeros, type Scope } from "../nn/parameters.js";

export const qFormerConfigSchema = z.looseObject({
  model_type: z.literal("blip_2_qformer").default("blip_2_qformer"),
  vocab_size: z.int().positive().default(30522),
  hidden_size: z.int().positive().default(768),
  num_hidden_layers: z.int().positive().default(12),
  num_attention_heads: z.int().positive().default(12),
  intermediate_size: z.int().positive().default(3072),
  hidden_act: z.enum(activationNames).default("gelu"),
  hidden_dropout_prob: z.number().min(0).max(1).default(0.1),
  attention_probs_dropout_prob: z.number().min(0).max(1).default(0.1),
  max_position_embeddings: z.int().positive().default(512),
  layer_norm_eps: z.number().positive().default(1e-12),
  cross_attention_frequency: z.int().positive().default(2),
  encoder_hidden_size: z.int().positive().default(1408),
  use_qformer_text_input: z.boolean().default(false),
});

export type QFormerConfig = z.infer<typeof qFormerConfigSchema>;

/** Dense, dropout, residual, norm: the end of each BERT sub-layer. */
class SelfOutput {
  private readonly dense: Linear;
  private readonly norm: LayerNorm;

  constructor(
    private readonly config: QFormerConfig,
    scope: Scope,
    inSize: number,
  ) {
    this.dense = new Linear(scope.at("dense"), inSize, config.hidden_size);
    this.norm = new LayerNorm(scope.at("LayerNorm"), config.hidden_size, config.layer_norm_eps);
  }

  forward(x: Tensor, residual: Tensor, dropout: Dropout): Tensor {
    return this.norm.forward(
      ops.add(residual, dropout.apply(this.dense.forward(x), this.config.hidden_dropout_prob)),
    );
  }
}

class QFormerAttention {
  private readonly query: Linear;
  private readonly key: Linear;
  private readonly value: Linear;
  private readonly output: SelfOutput;

  constructor(
    private readonly config: QFormerConfig,
    scope: Scope,
    keySize: number,
  ) {
    const width = config.hidden_size;
    this.query = new Linear(scope.at("attention", "query"), width, width);
    this.key = new Linear(scope.at("attention", "key"), keySize, width);
    this.value = new Linear(scope.at("attention", "value"), keySize, width);
    this.output = new SelfOutput(config, scope.at("output"), width);
  }

  /** Keys and values of what is looked at. [B, S, keySize] -> [B, H, S, K] each. */
  keyValues(source: Tensor): KeyValues {
    const heads = this.config.num_attention_heads;
    return {
      key: splitHeads(this.key.forward(source), heads),
      value: splitHeads(this.value.forward(source), heads),
    };
  }

  /** x: [B, L, D]; for `observe` see `attention`. */
  forward(
    x: Tensor,
    keyValues: KeyValues,
    mask: Tensor | undefined,
    dropout: Dropout,
    observe?: (probabilities: Tensor) => void,
  ): Tensor {
    const query = splitHeads(this.query.forward(x), this.config.num_attention_heads);
    const dropoutRate = this.config.attention_probs_dropout_prob;
    const attended = attention(query, keyValues, { mask, dropout, dropoutRate, observe });
    return this.output.forward(attended, x, dropout);
  }
}

class FeedForward {
  private readonly intermediate: Linear;
  private readonly output: SelfOutput;

  constructor(
    private readonly config: QFormerConfig,
    scope: Scope,
    suffix: "" | "_query",
  ) {
    this.intermediate = new Linear(
      scope.at(`intermediate${suffix}`, "dense"),
      config.hidden_size,
      config.intermediate_size,
    );
    this.output = new SelfOutput(config, scope.at(`output${suffix}`), config.intermediate_size);
  }

  forward(x: Tensor, dropout: Dropout): Tensor {
    return this.output.forward(activations[this.config.hidden_act](this.intermediate.forward(x)), x, dropout);
  }
}

class QFormerLayer {
  readonly selfAttention: QFormerAttention;
  readonly crossAttention: QFormerAttention | undefined;
  private readonly queryFeedForward: FeedForward;
  private readonly textFeedForward: FeedForward | undefined;

  constructor(config: QFormerConfig, scope: Scope, index: number) {
    this.selfAttention = new QFormerAttention(config, scope.at("attention"), config.hidden_size);
    this.crossAttention = crossAttentionLayers(config).includes(index)
      ? new QFormerAttention(config, scope.at("crossattention"), config.encoder_hidden_size)
      : undefined;
    this.queryFeedForward = new FeedForward(config, scope, "_query");
    this.textFeedForward = config.use_qformer_text_input ? new FeedForward(config, scope, "") : undefined;
  }

  /** x: [B, L, D], of which the first `queries` positions are queries and the rest text. */
  forward(
    x: Tensor,
    queries: number,
    keyValues: KeyValues,
    image: KeyValues | undefined,
    mask: Tensor | undefined,
    dropout: Dropout,
    observe?: (probabilities: Tensor) => void,
  ): Tensor {
    const attended = this.selfAttention.forward(x, keyValues, mask, dropout);
    if (queries === 0) return this.text(attended, dropout);
    let query = ops.slice(attended, 1, 0, queries);
    if (this.crossAttention !== undefined) {
      if (image === undefined)
        throw new InternalError("Q-Former: queries need the keys and values of an image");
      query = this.crossAttention.forward(query, image, undefined, dropout, observe);
    }
    const queryOut = this.queryFeedForward.forward(query, dropout);
    const rest = subtractDims(x.shape[1]!, queries);
    if (rest === 0) return queryOut;
    return ops.concat([queryOut, this.text(ops.slice(attended, 1, queries, rest), dropout)], 1);
  }

  private text(x: Tensor, dropout: Dropout): Tensor {
    if (this.textFeedForward === undefined)
      throw new InternalError(
        "Q-Former: this checkpoint has no text branch (use_qformer_text_input is false)",
      );
    return this.textFeedForward.forward(x, dropout);
  }
}

/** Keys and values of an image in each layer that has cross-attention, by layer index. */
export type ImageKeyValues = ReadonlyMap<number, KeyValues>;

/** Is shown what the queries of a layer look at, as the graph is built: float32 [B, H, Q, P]. */
export type CrossAttentionObserver = (layer: number, probabilities: Tensor) => void;

/** The layers in which queries look at the image. */
export function crossAttentionLayers(
  config: Pick<QFormerConfig, "num_hidden_layers" | "cross_attention_frequency">,
): number[] {
  const all = Array.from({ length: config.num_hidden_layers }, (_, i) => i);
  return all.filter((i) => i % config.cross_attention_frequency === 0);
}

export interface QFormerInputs {
  /** Query embeddings [B, Q, D]; absent in a text-only run. */
  readonly queries?: Tensor;
  /** Text embeddings [B, T, D] from `TextEmbeddings`; absent in a query-only run. */
  readonly text?: Tensor;
  /** From `imageKeyValues`; needed with queries. */
  readonly image?: ImageKeyValues;
  /** Added to self-attention scores, broadcasting to [B, H, L, S]. */
  readonly mask?: Tensor;
  /** Self-attention keys and values of positions that stand before these, per layer. */
  readonly past?: readonly KeyValues[];
  /**
   * How many leading positions of the output are asked for; all when absent. The last layer leaves out the others,
   * which no later layer reads. With queries it is at least their number.
   */
  readonly leading?: number;
  readonly dropout?: Dropout;
  readonly observe?: CrossAttentionObserver | undefined;
}

export interface QFormerOutput {
  /** [B, Q + T, D], queries first; [B, leading, D] where `leading` was given. */
  readonly lastHiddenState: Tensor;
  /** Self-attention keys and values of every position seen so far, per layer. */
  readonly present: readonly KeyValues[];
}

/** `Blip2QFormerModel`; `scope` is the checkpoint's `qformer`. */
export class QFormer {
  private readonly norm: LayerNorm;
  private readonly layers: readonly QFormerLayer[];

  constructor(
    readonly config: QFormerConfig,
    scope: Scope,
  ) {
    this.norm = new LayerNorm(scope.at("layernorm"), config.hidden_size, config.layer_norm_eps);
    this.layers = Array.from(
      { length: config.num_hidden_layers },
      (_, i) => new QFormerLayer(config, scope.at("encoder", "layer", i), i),
    );
  }

  /** What the queries will look at, computed once per image. imageFeatures: [B, P, D_img]. */
  imageKeyValues(imageFeatures: Tensor): ImageKeyValues {
    expectShape("Q-Former image features", imageFeatures, `B P ${this.config.encoder_hidden_size}`);
    return new Map(
      this.layers.flatMap((layer, i) =>
        layer.crossAttention ? [[i, layer.crossAttention.keyValues(imageFeatures)] as const] : [],
      ),
    );
  }

  forward(inputs: QFormerInputs): QFormerOutput {
    const { queries, text, image, mask, past, leading, dropout = noDropout, observe } = inputs;
    const parts = [queries, text].filter((part) => part !== undefined);
    if (parts.length === 0) throw new InternalError("Q-Former: needs queries, text or both");
    const queryCount = queries === undefined ? 0 : Number(queries.shape[1]);
    if (leading !== undefined && leading < queryCount)
      throw new InternalError(
        `Q-Former: ${leading} leading positions asked for, fewer than ${queryCount} queries`,
      );
    let x = dropout.apply(this.norm.forward(ops.concat(parts, 1)), this.config.hidden_dropout_prob);
    const present: KeyValues[] = [];
    for (const [i, layer] of this.layers.entries()) {
      const own = layer.selfAttention.keyValues(x);
      const before = past?.[i];
      const keyValues =
        before === undefined
          ? own
          : { key: ops.concat([before.key, own.key], 2), value: ops.concat([before.value, own.value], 2) };
      present.push(keyValues);
      const isLast = i === this.layers.length - 1;
      const asked = isLast && leading !== undefined ? ops.slice(x, 1, 0, leading) : x;
      const rows = isLast ? leadingRows(mask, leading) : mask;
      const observeLayer = observe && ((probabilities: Tensor) => observe(i, probabilities));
      x = layer.forward(asked, queryCount, keyValues, image?.get(i), rows, dropout, observeLayer);
    }
    return { lastHiddenState: x, present };
  }
}

/** The rows of an attention mask that belong to the first positions. */
function leadingRows(mask: Tensor | undefined, leading: number | undefined): Tensor | undefined {
  if (mask === undefined || leading === undefined || mask.shape.at(-2) === 1) return mask;
  return ops.slice(mask, -2, 0, leading);
}

/** Word and position tables of the text branch; `scope` is the checkpoint's `embeddings`. */
export class TextEmbeddings {
  readonly words: Embedding;
  private readonly positions: Embedding;

  constructor(config: QFormerConfig, scope: Scope) {
    this.words = new Embedding(scope.at("word_embeddings"), config.vocab_size, config.hidden_size);
    this.positions = new Embedding(
      scope.at("position_embeddings"),
      config.max_position_embeddings,
      config.hidden_size,
    );
  }

  /** ids: int64 [B, T], whose first token stands at `offset` -> [B, T, D]. */
  forward(ids: Tensor, offset: Dim = 0): Tensor {
    const length = ids.shape[1]!;
    return ops.add(this.words.forward(ids), ops.slice(this.positions.weight, 0, offset, length));
  }
}

/** The learned queries, `query_tokens` [1, Q, D], repeated for a batch. */
export class QueryTokens {
  private readonly tokens: Tensor;

  constructor(
    readonly count: number,
    private readonly width: number,
    scope: Scope,
  ) {
    this.tokens = scope.tensor("query_tokens", [1, count, width], normal(0.02));
  }

  /** -> [B, Q, D]. */
  forward(batch: Dim): Tensor {
    return ops.expand(this.tokens, [batch, this.count, this.width]);
  }
}

/**
 * The language-model head of stage 1 (BERT's `cls.predictions`): dense, activation, norm, and a decoder
 * tied to the word table. `scope` is `cls.predictions`.
 */
export class TextHead {
  private readonly dense: Linear;
  private readonly norm: LayerNorm;
  private readonly bias: Tensor;

  constructor(
    private readonly config: QFormerConfig,
    scope: Scope,
    private readonly words: Embedding,
  ) {
    this.dense = new Linear(scope.at("transform", "dense"), config.hidden_size, config.hidden_size);
    this.norm = new LayerNorm(scope.at("transform", "LayerNorm"), config.hidden_size, config.layer_norm_eps);
    this.bias = scope.tensor("bias", [config.vocab_size], zeros);
  }

  /** [B, T, D] -> logits [B, T, V]. */
  forward(x: Tensor): Tensor {
    const h = this.norm.forward(activations[this.config.hidden_act](this.dense.forward(x)));
    return ops.linear(h, this.words.weight, this.bias);
  }
}
