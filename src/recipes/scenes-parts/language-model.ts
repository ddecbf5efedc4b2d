/**
 * Training a small OPT on text alone, so that there is a frozen language model to bridge to. A sequence is a
 * written description followed by captions of it and by questions with their answers; only captions and
 * answers are learnt, so the model learns to read a description, not to invent one. The description
 * stands before the start token in most sequences: the place where a soft visual prompt will stand.
 */
import { z } from "zod";
import { input, integer, ops, type Device, type Tensor } from "../../engine/index.js";
import { Random } from "../../random.js";
import type { DescribedScene } from "../../data/text-corpus.js";
import { UserError } from "../../errors.js";
import { Opt, optConfigSchema, type OptConfig } from "../../models/language/opt.js";
import { normal, Parameters } from "../../nn/parameters.js";
import { ignoreIndex } from "../../objectives/cross-entropy.js";
import { languageModelLoss } from "../../objectives/stage-2.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import { answerMeasureOf, type AnswerMeasure } from "./answers.js";
import { textKeys, TextOrder } from "./text-order.js";
import { paddedBatch, rememberingEncoder, type TokenRow } from "../../training/token-rows.js";
import { startWeights } from "../../training/start-weights.js";
import { equalParts, trainerKeys, weightSlots, type Task } from "../../training/trainer.js";

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
  .refine(...equalParts);

export type LanguageModelConfig = z.infer<typeof languageModelConfigSchema>;

/** Asks in the form that published BLIP-2 prompts have. */
export const questionPrompt = (question: string): string => `Question: ${question} Answer:`;

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

/** The token that ends a caption or an answer, as in published BLIP-2 with OPT. */
export function newlineId(tokenizer: TextTokenizer): number {
  return tokenizer.encode("\n", { addSpecialTokens: false }).at(-1)!;
}

export interface LanguageModelTask extends Task {
  readonly model: Opt;
}

export async function languageModelTask(
  device: Device,
  config: LanguageModelConfig,
  tokenizer: TextTokenizer,
  train: readonly DescribedScene[],
  test: readonly DescribedScene[],
): Promise<LanguageModelTask> {
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
  const measure = await answerMeasure(device, parameters, model, writer, test);
  return {
    parameters,
    model,
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

/** Writes described scenes as token rows. */
export class SequenceWriter {
  private readonly ids: (text: string) => readonly number[];
  readonly start: number;
  readonly newline: number;
  readonly pad: number;

  constructor(tokenizer: TextTokenizer) {
    this.ids = rememberingEncoder(tokenizer);
    this.pad = tokenizer.specialIds.pad!;
    this.start = tokenizer.idOf("</s>");
    this.newline = newlineId(tokenizer);
  }

  /** A description is closed by a stop, so that each of its parts has an end. */
  private description(description: string): readonly number[] {
    return this.ids(`${description} .`);
  }

  /** The description and the start token, in one of the two orders. */
  private opening(description: string, random: Random): number[] {
    const ids = this.description(description);
    return random.chance(0.7) ? [...ids, this.start] : [this.start, ...ids, this.newline];
  }

  /**
   * A training row: a description, perhaps the same again, then a caption, statements and questions in random order, as far
   * as they fit into `most` tokens.
   */
  sequence(
    { description, captions, questions, statements }: DescribedScene,
    random: Random,
    shares: Pick<
      LanguageModelConfig,
      "echoShare" | "captionShare" | "statementShare" | "bareShare" | "typeShares"
    >,
    most: number,
  ): TokenRow {
    const ids = this.opening(description, random);
    const labels = ids.map(() => ignoreIndex);
    const append = (prompt: readonly number[], answer: readonly number[]): void => {
      if (ids.length + prompt.length + answer.length + 1 > most) return;
      ids.push(...prompt, ...answer, this.newline);
      labels.push(...prompt.map(() => ignoreIndex), ...answer, this.newline);
    };
    const isAsked = (share: number): boolean => share === 1 || (share > 0 && random.chance(share));
    const chosen = questions.filter(({ type }) => isAsked(shares.typeShares[type] ?? 1));
    const asked = chosen.map(({ question, answer }) => {
      const prompt = random.chance(shares.bareShare) ? question.replace(/\?$/, "") : questionPrompt(question);
      return () => append(this.ids(prompt), this.ids(answer));
    });
    const told = [
      ...[random.pick(captions)].filter(() => isAsked(shares.captionShare)),
      ...statements.filter(() => isAsked(shares.statementShare)),
    ].map((text) => () => append([], this.ids(text)));
    const echoed = random.chance(shares.echoShare) ? [() => append([], this.description(description))] : [];
    for (const write of [...echoed, ...random.shuffle([...asked, ...told])]) write();
    return { ids, labels };
  }

  /** A test row: a description and one question, with labels on the answer. */
  question(description: string, question: string, answer: string): TokenRow {
    const prompt = [...this.description(description), this.start, ...this.ids(questionPrompt(question))];
    const reply = [...this.ids(answer), this.newline];
    return { ids: [...prompt, ...reply], labels: [...prompt.map(() => ignoreIndex), ...reply] };
  }
}

/** Answers from written descriptions, measured with the weights in the device's slots. */
export async function answerMeasure(
  device: Device,
  parameters: Parameters,
  model: Opt,
  writer: SequenceWriter,
  test: readonly DescribedScene[],
): Promise<AnswerMeasure> {
  const ids = input("ids", "int64", ["B", "T"]);
  const mask = input("mask", "int64", ["B", "T"]);
  const labels = input("labels", "int64", ["B", "T"]);
  const program = await device.compile(
    { right: answeredRight(model, ids, mask, labels) },
    { residentInputs: weightSlots(parameters) },
  );
  return answerMeasureOf(test, async (questions, signal) => {
    const rows = questions.map((asked) => writer.question(asked.description, asked.question, asked.answer));
    const { right } = await program.run(paddedBatch(rows, writer.pad), { signal });
    return right!.data;
  });
}

/** 1 for each row all of whose labelled tokens are the model's first choice, else 0. -> float32 [B]. */
function answeredRight(model: Opt, ids: Tensor, mask: Tensor, labels: Tensor): Tensor {
  const { lastHiddenState } = model.forward({ inputsEmbeds: model.embed(ids), attentionMask: mask });
  const length = ops.addDims("T", -1);
  const choice = ops.argmax(model.logits(ops.slice(lastHiddenState, 1, 0, length)));
  const wanted = ops.slice(labels, 1, 1, length);
  const isWrong = ops.and(ops.lessOrEqual(integer(0), wanted), ops.not(ops.equal(choice, wanted)));
  const wrong = ops.reduceSum(ops.cast(isWrong, "float32"), [1]);
  return ops.where(ops.less(0, wrong), 0, 1);
}
