/**
 * Stage 2: the bridge of stage 1 learns to prompt a frozen language model, OPT or T5 (paper section 3.3).
 * Training data are cached features and captions; the result is a folder in the layout of
 * `Blip2ForConditionalGeneration`.
 */
import { z } from "zod";
import { toFloat32 } from "../../float16.js";
import { checkTensors, type ModelFolder } from "../../checkpoints/model-folder.js";
import { Random } from "../../random.js";
import { ShuffledPasses } from "../../data/shuffle.js";
import { input, type Device, type HostTensors, type Tensor } from "../../engine/index.js";
import { UserError } from "../../errors.js";
import type { HostTensor } from "../../host-tensor.js";
import { SecondStage } from "../../models/blip-2-bridge.js";
import { qFormerConfigSchema, type QFormerConfig } from "../../models/q-former.js";
import { bridgeNormEpsilon } from "../../models/vision/vision-encoder.js";
import { Dropout } from "../../nn/dropout.js";
import { initialise } from "../../nn/initialise.js";
import { normal, Parameters } from "../../nn/parameters.js";
import { ignoreIndex } from "../../objectives/cross-entropy.js";
import { softPromptLoss } from "../../objectives/stage-2.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import type { FrozenVision } from "../../training/image-features.js";
import { clozeOf } from "./cloze.js";
import {
  frozenOpt,
  hasDropout,
  wordSize,
  wordSpread,
  type FrozenLanguageModel,
  type FrozenOpt,
} from "../frozen-language-model.js";
import { newlineId } from "../scenes-parts/language-model.js";
import { stepSeed, type FeatureSet } from "../stage-1.js";
import { prefixSide } from "./encoder-decoder-text.js";
import { startWeights } from "../../training/start-weights.js";
import { paddedBatch, type TokenRow } from "../../training/token-rows.js";
import { equalParts, trainerKeys, weightSlots, type Task } from "../../training/trainer.js";

export const stage2ConfigSchema = z
  .strictObject({
    /** A folder with captions_train.json, captions_validation.json and their pictures. */
    data: z.string(),
    /** Folder that stage 1 wrote: the bridge's start, and the frozen image encoder. */
    stage1: z.string(),
    /** Folder of the frozen language model. */
    languageModel: z.string(),
    /** Text before every caption, on which nothing is learnt; a T5 reads it in its encoder. */
    prompt: z.string().default(""),
    /**
     * Share of the rows that hold statements in place of a caption, from statements_train.json. A caption tells of all
     * things in one order. A statement is given up to its verb ("the color of the star is"), and what is learnt is
     * to go on with what is true of that thing.
     */
    statementShare: z.number().min(0).max(1).default(0),
    /**
     * How many statements such a row holds, as far as they fit: one behind the other, each with an end token; for
     * a T5 with blanks that its decoder fills.
     */
    statements: z.int().positive().default(4),
    /** Longest row in tokens, the start and end tokens included; of a T5's encoder and decoder each. */
    maxTextLength: z.int().min(3).default(40),
    /** Whether the start token is a target of the last query, as in the reference without a prompt. Not for T5. */
    learnStartToken: z.boolean().default(false),
    /**
     * Share of captions of which a T5's encoder reads a beginning and its decoder says the rest, 0.5 if not given; of
     * the others the decoder says all. For T5 alone.
     */
    splitShare: z.number().min(0).max(1).optional(),
    /**
     * How a T5 meets statements: with a sentinel in the place of what each says ("blanks", if not given), or one behind the
     * other in its decoder ("dialogue"). A frozen T5 can only do what it learnt before. For T5 alone.
     */
    statementForm: z.enum(["blanks", "dialogue"]).optional(),
    /** Starts the language projection at the spread of the frozen word table, not at PyTorch's default. */
    matchWordScale: z.boolean().default(true),
    /**
     * How large the soft prompt is at the start, in multiples of the root mean square of the frozen word table. Where the
     * layers of a T5's encoder add much more than words are large (`condensedScale` of its training), a soft prompt as
     * large as words is drowned.
     */
    promptStart: z.number().positive().default(1),
    /**
     * Largest root mean square of a position of the soft prompt, in multiples of that of the frozen word table; what is
     * above it costs (`promptScalePenalty`). Without it nothing does, as in the paper.
     */
    promptScale: z.number().positive().optional(),
    /** How the model written at the end searches where nobody says otherwise; keys of generation_config.json. */
    generation: z
      .strictObject({
        num_beams: z.int().positive().optional(),
        no_repeat_ngram_size: z.int().nonnegative().optional(),
        question_format: z.string().optional(),
        answer_after: z.string().min(1).optional(),
      })
      .default({}),
    /**
     * Folder of an earlier run of the same sizes, or of a model, whose weights this one starts from; else those of
     * stage 1.
     */
    start: z.string().optional(),
    /**
     * Draws the queries, the Q-Former and the norm before it anew instead of reading them from the stage-1 folder, which
     * then gives the sizes and the image encoder alone: stage 2 without stage 1, as in figure 5 of the paper.
     */
    freshQFormer: z.boolean().default(false),
    ...trainerKeys,
  })
  .refine(...equalParts)
  .refine(({ matchWordScale, promptStart }) => matchWordScale || promptStart === 1, {
    path: ["promptStart"],
    message:
      "is counted in the spread of words, which matchWordScale: false leaves aside: take one of them out",
  })
  .refine(({ start, promptStart }) => start === undefined || promptStart === 1, {
    path: ["promptStart"],
    message: "cannot stand beside start, whose soft prompt has its size already: leave one of them out",
  })
  .refine(({ start, freshQFormer }) => start === undefined || !freshQFormer, {
    path: ["freshQFormer"],
    message: "cannot stand beside start, which names the weights to begin with: leave one of them out",
  });

export type Stage2Config = z.infer<typeof stage2ConfigSchema>;

/** What a row is made of. */
export type GivenTexts =
  | {
      readonly caption: string;
      /** In training: draws whatever there is to draw for this row. */
      readonly random?: Random;
    }
  | { readonly statements: readonly string[] };

/** How texts reach the language model, in the graph and in the feeds of a batch of it. */
export interface TextSide {
  /** Of a batch of `count` captions and features [count, P, D_img]. -> scalar. */
  loss(
    bridge: SecondStage,
    features: Tensor,
    count: number | string,
    dropout?: Dropout,
    promptLimit?: number,
  ): Tensor;
  /** int64 tensors by the names of the loss's inputs. */
  feeds(texts: readonly GivenTexts[]): HostTensors;
}

/**
 * Throws a `UserError` naming a key that is for another kind of language model than this one, and a prompt that leaves
 * no room for a caption.
 */
export function checkStage2Config(
  { prompt, maxTextLength, splitShare, statementForm, learnStartToken }: Stage2Config,
  { kind, folder: { path } }: FrozenLanguageModel,
  tokenizer: TextTokenizer,
): void {
  for (const [key, value] of Object.entries({ splitShare, statementForm })) {
    if (kind === "opt" && value !== undefined)
      throw new UserError(`${key} is for a T5, ${path} is an OPT, which has no encoder; leave it out`);
  }
  if (kind === "t5" && learnStartToken)
    throw new UserError(
      `learnStartToken is for a decoder-only language model, ${path} is a T5; leave it out`,
    );
  const length = tokenizer.encode(prompt).length;
  if (length >= maxTextLength) {
    throw new UserError(
      `prompt has ${length} tokens, maxTextLength is ${maxTextLength}: more is required, for the caption`,
    );
  }
}

export interface Stage2Task extends Task {
  readonly qformer: QFormerConfig;
  readonly queries: number;
}

/** What is trained in stage 2: everything but the language model (the image encoder is not in the graph). */
const isTrained = (name: string): boolean => !name.startsWith("language_model.");

export async function stage2Task(
  device: Device,
  config: Stage2Config,
  stage1: ModelFolder,
  vision: FrozenVision,
  languageModel: FrozenLanguageModel,
  tokenizer: TextTokenizer,
  train: FeatureSet,
  validation: FeatureSet,
): Promise<Stage2Task> {
  const queries = Number(stage1.config["num_query_tokens"]);
  const qformer = qFormerConfigSchema.parse({
    ...(stage1.config["qformer_config"] as object),
    use_qformer_text_input: false,
    vocab_size: 30522,
  });
  const parameters = new Parameters(isTrained);
  const side =
    languageModel.kind === "opt"
      ? captionSide(languageModel, parameters, tokenizer, config, queries)
      : prefixSide(languageModel, parameters, tokenizer, config);
  const wordScale = wordSpread(languageModel);
  const spread = (config.promptStart * wordScale) / Math.sqrt(qformer.hidden_size);
  const bridge = new SecondStage(
    {
      qformer,
      visionNormEpsilon: bridgeNormEpsilon(vision.config),
      queryCount: queries,
      languageSize: wordSize(languageModel),
      ...(config.matchWordScale && { projectionInit: { weightInit: normal(spread) } }),
    },
    parameters.scope(),
  );
  const size = config.batchSize / config.accumulate;
  const [, positions, width] = train.features.dims;
  const seed = input("seed", "uint64", []);
  const usesDropout =
    qformer.hidden_dropout_prob > 0 || qformer.attention_probs_dropout_prob > 0 || hasDropout(languageModel);
  const features = (count: number | string) => input("features", "float32", [count, positions, width]);
  const loss = side.loss(
    bridge,
    features(size),
    size,
    usesDropout ? new Dropout(seed) : undefined,
    config.promptScale && config.promptScale * wordScale,
  );
  const passes = new ShuffledPasses(train.pictures.length, config.seed);
  const measure = await device.compile(
    { loss: side.loss(bridge, features("B"), "B") },
    { weights: languageModel.weights, residentInputs: weightSlots(parameters) },
  );
  const feeds = async (
    set: FeatureSet,
    places: readonly number[],
    texts: readonly GivenTexts[],
  ): Promise<HostTensors> => ({
    features: await set.features.rows(places),
    ...side.feeds(texts),
  });
  return {
    qformer,
    queries,
    parameters,
    weights: languageModel.weights,
    start:
      config.start === undefined
        ? await startOf(stage1, parameters, config)
        : await startWeights(parameters, config.seed, config.start),
    loss,
    metrics: {},
    batch: async (step, part) => {
      const positionsOfBatch = Array.from(
        { length: size },
        (_, i) => step * config.batchSize + part * size + i,
      );
      const chosen = positionsOfBatch.map((position) => ({
        place: passes.at(position).item,
        random: new Random("caption", config.seed, position),
      }));
      const texts = chosen.map(({ place, random }): GivenTexts => {
        const { captions, statements = [] } = train.pictures[place]!;
        return config.statementShare > 0 && random.chance(config.statementShare)
          ? { statements: random.shuffle(statements).slice(0, config.statements) }
          : { caption: random.pick(captions), random };
      });
      const batchFeeds = await feeds(
        train,
        chosen.map(({ place }) => place),
        texts,
      );
      return usesDropout ? { ...batchFeeds, seed: stepSeed(config.seed, step, part) } : batchFeeds;
    },
    evaluate: async () => {
      const count = Math.min(500, validation.pictures.length);
      let sum = 0;
      for (let from = 0; from < count; from += 50) {
        const places = Array.from({ length: Math.min(50, count - from) }, (_, i) => from + i);
        const result = await measure.run(
          await feeds(
            validation,
            places,
            places.map((place) => ({ caption: validation.pictures[place]!.captions[0]! })),
          ),
        );
        sum += (result["loss"]!.data as Float32Array)[0]! * places.length;
      }
      return { "validation loss": sum / count };
    },
  };
}

/** Captions behind the soft prompt of a decoder-only language model. */
function captionSide(
  languageModel: FrozenOpt,
  parameters: Parameters,
  tokenizer: TextTokenizer,
  config: Stage2Config,
  queries: number,
): TextSide {
  const { max_position_embeddings: room } = languageModel.config;
  if (queries + config.maxTextLength > room) {
    throw new UserError(
      `maxTextLength is ${config.maxTextLength}, too much after ${queries} queries: the language model has ${room} positions`,
    );
  }
  const opt = frozenOpt(languageModel, parameters);
  const writer = new RowWriter(tokenizer, config);
  const pad = tokenizer.specialIds.pad!;
  return {
    loss: (bridge, features, count, dropout, promptLimit) => {
      const batch = {
        features,
        ids: input("ids", "int64", [count, "T"]),
        mask: input("mask", "int64", [count, "T"]),
        labels: input("labels", "int64", [count, "T"]),
      };
      return softPromptLoss(bridge, opt, batch, dropout, promptLimit);
    },
    feeds: (texts) =>
      paddedBatch(
        texts.map((given) =>
          "caption" in given ? writer.caption(given.caption) : writer.statements(given.statements),
        ),
        pad,
      ),
  };
}

/** Token rows behind a soft prompt. */
class RowWriter {
  private readonly newline: number;
  private readonly start: number;

  constructor(
    private readonly tokenizer: TextTokenizer,
    private readonly config: Pick<Stage2Config, "prompt" | "maxTextLength" | "learnStartToken">,
  ) {
    this.newline = newlineId(tokenizer);
    this.start = tokenizer.idOf("</s>");
  }

  /** Start token, prompt, caption, end token. */
  caption(caption: string): TokenRow {
    const { prompt, maxTextLength, learnStartToken } = this.config;
    const opening = prompt === "" ? [this.start] : this.tokenizer.encode(prompt);
    const isLearnt = learnStartToken && prompt === "";
    const target = [...this.ids(caption).slice(0, maxTextLength - opening.length - 1), this.newline];
    return {
      ids: [...opening, ...target],
      labels: [...opening.map((id) => (isLearnt ? id : ignoreIndex)), ...target],
    };
  }

  /** Start token, then statements with their end tokens; of each, what it is about is given. */
  statements(statements: readonly string[]): TokenRow {
    const ids = [this.start];
    const labels = [ignoreIndex];
    for (const statement of statements) {
      const { before, missing } = clozeOf(statement);
      const given = this.ids(before);
      const target = [...this.ids(missing), this.newline];
      if (ids.length + given.length + target.length > this.config.maxTextLength) break;
      ids.push(...given, ...target);
      labels.push(...given.map(() => ignoreIndex), ...target);
    }
    return { ids, labels };
  }

  private ids(text: string): readonly number[] {
    return this.tokenizer.encode(text, { addSpecialTokens: false });
  }
}

/** Stage 1's weights for what both stages have unless that is to be fresh too, fresh ones for the language projection. */
async function startOf(
  stage1: ModelFolder,
  parameters: Parameters,
  { seed, freshQFormer }: Pick<Stage2Config, "seed" | "freshQFormer">,
): Promise<Map<string, HostTensor>> {
  const fresh = initialise(parameters.trainable, seed);
  if (freshQFormer) return fresh;
  const shared = new Map(
    [...parameters.shapes].filter(([name]) => isTrained(name) && !name.startsWith("language_projection.")),
  );
  checkTensors(shared, stage1.weights.tensors, stage1.path, { ignored: (name) => !shared.has(name) });
  for (const [name, value] of await stage1.weights.readAll(shared.keys())) fresh.set(name, toFloat32(value));
  return fresh;
}
