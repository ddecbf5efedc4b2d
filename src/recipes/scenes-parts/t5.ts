/**
 * Training a small T5 v1.1 on text alone, so that there is a frozen encoder-decoder to bridge to. The encoder reads a
 * written description and something behind it; the decoder gives what is missing. A batch is of one of four
 * forms, drawn for each step:
 *
 * - dialogues: the decoder reads questions and statements and gives the answer of each, one after the other. All of a text's
 *   questions are learnt from at once, and none sees those behind it;
 * - blanks: questions and statements with sentinels in the place of answers, all of them given in one go (T5's own span
 *   denoising, with spans that can be told from the description);
 * - questions: one question, and its answer;
 * - captions: the first words of a caption or none, and the rest (prefix language modelling).
 */
import { z } from "zod";
import { UserError } from "../../errors.js";
import {
  encoderDecoderAnswerMeasure,
  plainFeeds,
  plainInputs,
  spokenFeeds,
  spokenInputs,
} from "../../evaluation/answers/encoder-decoder.js";
import { forms, pairIds, PairWriter, type Form, type PairRow } from "../../evaluation/answers/pair-writer.js";
import { T5, t5ConfigSchema, type T5Config } from "../../models/language/t5.js";
import { Parameters, type Initialiser } from "../../nn/parameters.js";
import { ignoreIndex } from "../../objectives/cross-entropy.js";
import { textToTextLoss } from "../../objectives/text-to-text.js";
import { Random } from "../../random.js";
import { sentinelTokens } from "../../text/build-bpe.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import { startWeights } from "../../training/start-weights.js";
import { equalParts, trainerKeys, type Task } from "../../training/trainer.js";
import {
  condense,
  condensedFeeds,
  condensedInputs,
  plainPositions,
  type CondensedPosition,
} from "./condensed.js";
import { textKeys, TextOrder, type TextSetup } from "./text-order.js";

export const t5LanguageModelConfigSchema = z
  .strictObject({
    /** A folder made by `blip2 scenes`, or one with text_train.jsonl and text_test.jsonl alike. */
    data: z.string(),
    /** Sizes of the model; its vocabulary is that of the tokenizer, which is made from the text. */
    model: z.strictObject({
      model_type: t5ConfigSchema.shape.model_type,
      d_model: z.int().positive(),
      d_kv: z.int().positive(),
      d_ff: z.int().positive(),
      num_heads: z.int().positive(),
      num_layers: z.int().positive(),
      num_decoder_layers: z.int().positive().optional(),
      relative_attention_num_buckets: z.int().min(4).default(32),
      relative_attention_max_distance: z.int().positive().default(128),
      /**
       * Spread at the start of the position biases of the nearest places, up to four away. A step moves each by the
       * learning rate at most, so from the usual small ones a head needs thousands of steps to tell a neighbour
       * from the rest. Places further away start alike, so that heads look for content there.
       */
      positionStd: z.number().positive().default(2),
    }),
    /** How often a step's batch has each form, relative to one another. */
    forms: z
      .strictObject({
        dialogues: z.number().min(0).default(0.6),
        blanks: z.number().min(0).default(0),
        questions: z.number().min(0).default(0.2),
        captions: z.number().min(0).default(0.2),
      })
      .refine((shares) => forms.some((form) => shares[form] > 0), "one form at least must be above 0")
      .prefault({}),
    /** So many rows of the short forms, questions and captions, stand in for one of the others. */
    shortRows: z.int().positive().default(3),
    /**
     * Most blanks of a row, of which each has one or more. All that a row asks is read together, and many questions tell
     * about each other's answers: with few, a model has to read the description.
     */
    mostBlanks: z.int().min(1).max(sentinelTokens.length).default(8),
    /**
     * Tokens, the end token included, up to which a row takes further questions and statements: in the encoder with
     * blanks, in the decoder with dialogues. Single questions and captions are never cut.
     */
    maxTextLength: z.int().min(8).default(256),
    /** Share of questions in blanks and dialogues that stand bare, without the frame of a prompt. */
    bareShare: z.number().min(0).max(1).default(0.5),
    /**
     * Share of single questions that are split at a random place, as in prefix language modelling: the encoder reads
     * what comes before, the decoder the rest. A decoder that finds answers in dialogues so learns, a word at a time, to take
     * the question too from the encoder.
     */
    splitShare: z.number().min(0).max(1).default(0),
    /**
     * Share of the other single questions that the decoder says again before it answers, which the encoder's text asks for by ending
     * with the question. To find the question is half of answering it, and is learnt first.
     */
    echoShare: z.number().min(0).max(1).default(0),
    /** Share of a text's statements (sentences of one fact) in blanks and dialogues. */
    statementShare: z.number().min(0).max(1).default(0.5),
    /**
     * Share of the rows whose description is read condensed, several of its words at one position, as a soft prompt is
     * (`condense`).
     */
    condensedShare: z.number().min(0).max(1).default(0),
    /** How large the positions of such a description are at most, in multiples of their sum of words. */
    condensedScale: z.number().min(1).default(1),
    ...textKeys,
    ...trainerKeys,
  })
  .refine(...equalParts)
  .refine(({ condensedShare, condensedScale }) => condensedShare > 0 || condensedScale === 1, {
    path: ["condensedScale"],
    message: "is of condensed descriptions, of which there are none: give condensedShare too",
  })
  .superRefine(({ model }, context) => {
    const { relative_attention_num_buckets: buckets, relative_attention_max_distance: farthest } = model;
    if (farthest > buckets / 2) return;
    context.addIssue({
      code: "custom",
      path: ["model", "relative_attention_max_distance"],
      message: `${farthest} is not more than half of relative_attention_num_buckets, which is ${buckets}`,
    });
  });

export type T5LanguageModelConfig = z.infer<typeof t5LanguageModelConfigSchema>;

/** The T5 configuration of a run, in Hugging Face's keys: v1.1, with BLIP-2's exact GELU. */
export function t5ConfigOf({ model }: T5LanguageModelConfig, tokenizer: TextTokenizer): T5Config {
  const { pad, end } = pairIds(tokenizer);
  const { positionStd: _position, ...sizes } = model;
  return t5ConfigSchema.parse({
    ...sizes,
    num_decoder_layers: model.num_decoder_layers ?? model.num_layers,
    vocab_size: tokenizer.vocabularySize,
    feed_forward_proj: "gated-gelu",
    dense_act_fn: "gelu",
    is_gated_act: true,
    dropout_rate: 0,
    tie_word_embeddings: false,
    pad_token_id: pad,
    eos_token_id: end,
    bos_token_id: end,
    decoder_start_token_id: pad,
  });
}

export async function t5LanguageModelTask({
  device,
  config,
  tokenizer,
  train,
  test,
}: TextSetup<T5LanguageModelConfig>): Promise<Task> {
  const parameters = new Parameters(() => true);
  const model = new T5(t5ConfigOf(config, tokenizer), parameters.scope(), undefined, (bidirectional) =>
    nearBiases(config.model, bidirectional),
  );
  const writer = new PairWriter(tokenizer, config.maxTextLength);
  const isCondensed = config.condensedShare > 0;
  const breaks = phraseBreaks(tokenizer);
  const positionsOf = ({ text, described }: PairRow, random: Random): readonly CondensedPosition[] => {
    if (!random.chance(config.condensedShare)) return plainPositions(text);
    const description = condense(text.slice(0, described), breaks, config.condensedScale, random);
    return [...description, ...plainPositions(text.slice(described))];
  };
  const read = isCondensed ? condensedInputs(model) : plainInputs(model);
  const loss = textToTextLoss(model, { ...read, ...spokenInputs() }, writer.ids);
  const order = new TextOrder(train, config);
  const partSize = config.batchSize / config.accumulate;
  const measure = await encoderDecoderAnswerMeasure(device, parameters, model, writer, test);
  return {
    parameters,
    weights: new Map(),
    start: await startWeights(parameters, config.seed, config.start),
    loss,
    metrics: {},
    batch: (step, part) => {
      const form = formOf(config.forms, new Random("form", config.seed, step));
      const rowsPerText = form === "questions" || form === "captions" ? config.shortRows : 1;
      const rows = Array.from({ length: partSize }, (_, i) => {
        const position = step * config.batchSize + part * partSize + i;
        const scene = order.at(position, step);
        const random = new Random("pair", config.seed, position);
        return Array.from({ length: rowsPerText }, () => writer.pair(form, scene, random, config));
      }).flat();
      if (
        rows.some(({ labels }) => labels.every((label) => label === ignoreIndex || label === writer.ids.end))
      ) {
        const message = `${config.data}: maxTextLength is ${config.maxTextLength}, too short for a description with a question behind it`;
        return Promise.reject(new UserError(message));
      }
      const random = new Random("condensed", config.seed, step, part);
      return Promise.resolve({
        ...(isCondensed
          ? condensedFeeds(
              rows.map((row) => positionsOf(row, random)),
              writer.ids.pad,
            )
          : plainFeeds(rows, writer.ids.pad)),
        ...spokenFeeds(rows),
      });
    },
    evaluate: () => measure(),
  };
}

function nearBiases(
  { positionStd, relative_attention_num_buckets: buckets }: T5LanguageModelConfig["model"],
  bidirectional: boolean,
): Initialiser {
  const near = [0, 1, 2, 3, 4];
  const ahead = bidirectional ? near.slice(1).map((place) => place + Math.floor(buckets / 2)) : [];
  return { kind: "rows", std: positionStd, rows: [...near, ...ahead].filter((row) => row < buckets) };
}

function formOf(shares: Readonly<Record<Form, number>>, random: Random): Form {
  let left = random.next() * forms.reduce((sum, form) => sum + shares[form], 0);
  for (const form of forms) {
    left -= shares[form];
    if (left < 0) return form;
  }
  return forms.findLast((form) => shares[form] > 0)!;
}

/** Tokens that stand between phrases, as the tokenizer has them. */
function phraseBreaks(tokenizer: TextTokenizer): ReadonlySet<number> {
  const tokens = [".", ",", " .", " ,", " and"].map((text) =>
    tokenizer.encode(text, { addSpecialTokens: false }),
  );
  return new Set(tokens.filter((ids) => ids.length === 1).flat());
}
