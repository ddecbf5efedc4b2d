/**
 * Training a small OPT on text alone, so that there is a frozen language model to bridge to. A sequence is a
 * written description followed by captions of it and by questions with their answers; only captions and
 * answers are learnt, so the model learns to read a description, not to invent one. The description
 * stands before the start token in most sequences: the place where a soft visual prompt will stand.
 */
import { z } from "zod";
import { input } from "../../engine/index.js";
import { UserError } from "../../errors.js";
import { decoderAnswerMeasure } from "../../evaluation/answers/decoder-only.js";
import { newlineId, SequenceWriter } from "../../evaluation/answers/sequence-writer.js";
import { Opt, optConfigSchema, type OptConfig } from "../../models/language/opt.js";
import { normal, Parameters } from "../../nn/parameters.js";
import { ignoreIndex } from "../../objectives/cross-entropy.js";
import { languageModelLoss } from "../../objectives/stage-2.js";
import { Random } from "../../random.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import { startWeights } from "../../training/start-weights.js";
import { paddedBatch } from "../../training/token-rows.js";
import { equalParts, trainerKeys, type Task } from "../../training/trainer.js";
import { mustDivide } from "../picture-data.js";
import { textKeys, TextOrder, type TextSetup } from "./text-order.js";

export const languageModelConfigSchema = z
  .strictObject({
    /** A folder made by `blip2 scenes`, or one with text_train.jsonl and text_test.jsonl alike. */
    data: z.string(),
    /** Sizes of the model; its vocabulary is that of the tokenizer, which is made from the text. */
    model: z.strictObject({
      model_type: z.literal("opt").default("opt"),
      hidden_size: z.int().positive(),
      num_hidden_layers: z.int().positive(),
      num_attention_heads: z.int().positive(),
      ffn_dim: z.int().positive(),
      max_position_embeddings: z.int().positive().default(256),
      dropout: z.number().min(0).max(1).default(0),
      /** Spread of the word table at the start: wide enough for look-ups by content to form soon. */
      wordStd: z.number().positive().default(0.1),
      /** Amplitude of the sinusoids that the position table starts from. */
      positionAmplitude: z.number().positive().default(0.15),
      /** Base of their wavelengths: small enough that most columns tell neighbours apart. */
      positionBase: z.number().min(1).default(40),
    }),
    /**
     * Share of sequences in which the description is said again after the start token. Copying is learnt first and
     * is half of looking something up.
     */
    echoShare: z.number().min(0).max(1).default(0.5),
    /**
     * Share of sequences that hold a caption. How a caption is framed cannot be foreseen, and once copying is learnt
     * that noise covers what answers, of a token or two each, have still to teach.
     */
    captionShare: z.number().min(0).max(1).default(1),
    /** Share of a text's statements (sentences of one fact) that a sequence holds. */
    statementShare: z.number().min(0).max(1).default(0),
    /**
     * Share of questions that stand bare ("what color is the star" "red"), without the frame of a prompt: what
     * is asked about then stands next to the answer, which is the form that is learnt first.
     */
    bareShare: z.number().min(0).max(1).default(0.5),
    ...textKeys,
    ...trainerKeys,
  })
  .refine(...equalParts)
  .superRefine(({ model: { hidden_size: width, num_attention_heads: heads } }, context) =>
    mustDivide(context, ["model"], [width, "hidden_size"], [heads, "num_attention_heads"]),
  );

export type LanguageModelConfig = z.infer<typeof languageModelConfigSchema>;

/** The OPT configuration of a run, in Hugging Face's keys. */
export function optConfigOf({ model }: LanguageModelConfig, tokenizer: TextTokenizer): OptConfig {
  const { wordStd: _word, positionAmplitude: _position, ...sizes } = model;
  const end = newlineId(tokenizer);
  return optConfigSchema.parse({
    ...sizes,
    vocab_size: tokenizer.vocabularySize,
    word_embed_proj_dim: sizes.hidden_size,
    eos_token_id: end,
  });
}

export async function languageModelTask({
  device,
  config,
  tokenizer,
  train,
  test,
}: TextSetup<LanguageModelConfig>): Promise<Task> {
  const parameters = new Parameters(() => true);
  const model = new Opt(optConfigOf(config, tokenizer), parameters.scope(), {
    words: normal(config.model.wordStd),
    positions: {
      kind: "sinusoids",
      amplitude: config.model.positionAmplitude,
      base: config.model.positionBase,
    },
    // Scaled by width and depth: 0.02 suits wide models and leaves attention of narrow ones flat for long.
    reading: normal(config.model.hidden_size ** -0.5),
    writing: normal((2 * config.model.num_hidden_layers * config.model.hidden_size) ** -0.5),
  });
  const ids = input("ids", "int64", ["B", "T"]);
  const mask = input("mask", "int64", ["B", "T"]);
  const labels = input("labels", "int64", ["B", "T"]);
  const loss = languageModelLoss(model, { ids, mask, labels });
  const writer = new SequenceWriter(tokenizer);
  const order = new TextOrder(train, config);
  const partSize = config.batchSize / config.accumulate;
  const measure = await decoderAnswerMeasure(device, parameters, model, writer, test);
  return {
    parameters,
    weights: new Map(),
    start: await startWeights(parameters, config.seed, config.start),
    loss,
    metrics: {},
    batch: (step, part) => {
      const { max_position_embeddings: positions } = config.model;
      const rows = Array.from({ length: partSize }, (_, i) => {
        const position = step * config.batchSize + part * partSize + i;
        return writer.sequence(
          order.at(position, step),
          new Random("sequence", config.seed, position),
          config,
          positions,
        );
      });
      const cramped = rows.find(({ labels }) => labels.every((label) => label === ignoreIndex));
      if (cramped !== undefined) {
        const message = `${config.data}: model.max_position_embeddings is ${positions}, too few for a description of ${cramped.ids.length} tokens and something to learn behind it`;
        return Promise.reject(new UserError(message));
      }
      return Promise.resolve(paddedBatch(rows, writer.pad));
    },
    evaluate: () => measure(),
  };
}
