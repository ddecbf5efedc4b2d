/**
 * What BLIP-2 trains: the norm after the frozen image encoder, the queries, the Q-Former and the heads
 * on it (paper section 3). In three forms: `ImageTextModel` with both branches of the Q-Former and the heads
 * that compare pictures with texts (Hugging Face's `Blip2ForImageTextRetrieval` without its image encoder),
 * `FirstStage`, which adds what only the training of stage 1 uses (`temp` and `cls.predictions`), and
 * `SecondStage` with the query branch and the language projection (`Blip2ForConditionalGeneration` without its
 * two frozen models).
 *
 * Shapes: B batch, P image positions, D_img image width, Q queries, T text positions, D width, E width of
 * the shared image-text space, L width of the language model.
 */
import { expectShape, ops, type Tensor } from "../engine/index.js";
import type { Dropout } from "../nn/dropout.js";
import { LayerNorm, Linear, torchLinearInit, type LinearOptions } from "../nn/layers.js";
import { bidirectionalMask, paddingMask } from "../nn/attention-masks.js";
import type { Scope } from "../nn/parameters.js";
import {
  QFormer,
  QueryTokens,
  TextEmbeddings,
  TextHead,
  type CrossAttentionObserver,
  type ImageKeyValues,
  type QFormerConfig,
  type QFormerOutput,
} from "./q-former.js";

export interface BridgeConfig {
  readonly qformer: QFormerConfig;
  /** Epsilon of the norm after the image encoder: 1e-6 in Hugging Face's configs, 1e-5 in LAVIS. */
  readonly visionNormEpsilon: number;
  readonly queryCount: number;
}

/** The parts that both stages share. */
export class QueryBranch {
  readonly qformer: QFormer;
  readonly queryTokens: QueryTokens;
  private readonly visionNorm: LayerNorm;

  constructor(config: BridgeConfig, scope: Scope) {
    const { qformer, queryCount } = config;
    this.visionNorm = new LayerNorm(
      scope.at("vision_model", "post_layernorm"),
      qformer.encoder_hidden_size,
      config.visionNormEpsilon,
    );
    this.queryTokens = new QueryTokens(queryCount, qformer.hidden_size, scope);
    this.qformer = new QFormer(qformer, scope.at("qformer"));
  }

  /** Features of the frozen encoder, before its last norm [B, P, D_img] -> keys and values per layer. */
  imageKeyValues(features: Tensor): ImageKeyValues {
    expectShape("BLIP-2 image features", features, `B P ${this.qformer.config.encoder_hidden_size}`);
    return this.qformer.imageKeyValues(this.visionNorm.forward(features));
  }

  /** The query-only run. -> [B, Q, D]. */
  queries(
    batch: Tensor["shape"][number],
    image: ImageKeyValues,
    dropout?: Dropout,
    observe?: CrossAttentionObserver,
  ): QFormerOutput {
    return this.qformer.forward({
      queries: this.queryTokens.forward(batch),
      image,
      observe,
      ...(dropout && { dropout }),
    });
  }
}

export interface ImageTextConfig extends BridgeConfig {
  /** E, 256 as published. */
  readonly sharedSize: number;
  /** 2 as published; 1 for the single-logit form of image-text matching. */
  readonly matchingClasses?: 1 | 2;
}

export class ImageTextModel {
  readonly branch: QueryBranch;
  readonly embeddings: TextEmbeddings;
  private readonly visionProjection: Linear;
  private readonly textProjection: Linear;
  private readonly matchingHead: Linear;

  constructor(
    readonly config: ImageTextConfig,
    scope: Scope,
  ) {
    const { hidden_size: width } = config.qformer;
    const init = torchLinearInit(width);
    this.branch = new QueryBranch(config, scope);
    this.embeddings = new TextEmbeddings(config.qformer, scope.at("embeddings"));
    this.visionProjection = new Linear(scope.at("vision_projection"), width, config.sharedSize, init);
    this.textProjection = new Linear(scope.at("text_projection"), width, config.sharedSize, init);
    this.matchingHead = new Linear(scope.at("itm_head"), width, config.matchingClasses ?? 2, init);
  }

  /** Rows of unit length, one per query. queryOutput: [B, Q, D] -> [B, Q, E]. */
  imageEmbeds(queryOutput: Tensor): Tensor {
    return ops.l2Normalize(this.visionProjection.forward(queryOutput));
  }

  /** The text-only run, pooled at [CLS]. ids, mask: int64 [B, T] -> [B, E], rows of unit length. */
  textEmbeds(ids: Tensor, mask: Tensor, dropout?: Dropout): Tensor {
    const { lastHiddenState } = this.branch.qformer.forward({
      text: this.embeddings.forward(ids),
      mask: paddingMask(mask),
      leading: 1,
      ...(dropout && { dropout }),
    });
    return ops.l2Normalize(this.textProjection.forward(ops.select(lastHiddenState, 1, 0)));
  }

  /**
   * The run in which queries and text see each other. image: keys and values of B pictures; ids, mask: int64 [B, T].
   * Where the mask is zero everywhere, the queries' rows are those of the query-only run.
   */
  matching(
    image: ImageKeyValues,
    ids: Tensor,
    mask: Tensor,
    dropout?: Dropout,
    observe?: CrossAttentionObserver,
  ): { readonly queryOutput: Tensor; readonly logits: Tensor } {
    const { queryTokens, qformer } = this.branch;
    const { lastHiddenState: queryOutput } = qformer.forward({
      queries: queryTokens.forward(ids.shape[0]!),
      text: this.embeddings.forward(ids),
      image,
      mask: bidirectionalMask(mask, queryTokens.count),
      leading: queryTokens.count,
      observe,
      ...(dropout && { dropout }),
    });
    // The decision is the mean of the queries' logits: [B, classes].
    return { queryOutput, logits: ops.reduceMean(this.matchingHead.forward(queryOutput), [1]) };
  }
}

/** What stage 1 trains: the model that compares, the head that generates text, and the temperature. */
export class FirstStage extends ImageTextModel {
  readonly textHead: TextHead;
  /** A scalar that divides similarities; neither clamped nor a logarithm. */
  readonly temperature: Tensor;

  constructor(config: ImageTextConfig, scope: Scope) {
    super(config, scope);
    this.textHead = new TextHead(config.qformer, scope.at("cls", "predictions"), this.embeddings.words);
    this.temperature = scope.tensor("temp", [], { kind: "constant", value: 0.07 });
  }
}

/** The language projection on top of the query branch: pictures to soft visual prompts. */
export class SecondStage {
  readonly branch: QueryBranch;
  private readonly languageProjection: Linear;

  constructor(
    readonly config: BridgeConfig & {
      readonly languageSize: number;
      /** How a new language projection starts; PyTorch's default when absent. */
      readonly projectionInit?: LinearOptions;
    },
    scope: Scope,
  ) {
    const width = config.qformer.hidden_size;
    this.branch = new QueryBranch(config, scope);
    const init = config.projectionInit ?? torchLinearInit(width);
    this.languageProjection = new Linear(scope.at("language_projection"), width, config.languageSize, init);
  }

  /** [B, P, D_img] -> query output [B, Q, D] and soft visual prompt [B, Q, L]. */
  forward(
    features: Tensor,
    dropout?: Dropout,
  ): { readonly queryOutput: Tensor; readonly softPrompt: Tensor } {
    const image = this.branch.imageKeyValues(features);
    const queryOutput = this.branch.queries(features.shape[0]!, image, dropout).lastHiddenState;
    return { queryOutput, softPrompt: this.languageProjection.forward(queryOutput) };
  }
}
