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
import { input, integer, ops, type Device, type HostTensors, type Tensor } from "../../engine/index.js";
import { Random } from "../../random.js";
import type { DescribedScene } from "../../data/text-corpus.js";
import { UserError } from "../../errors.js";
import { T5, t5ConfigSchema, type T5Config } from "../../models/language/t5.js";
import { Parameters, type Initialiser } from "../../nn/parameters.js";
import { ignoreIndex } from "../../objectives/cross-entropy.js";
import { textToTextLogits, textToTextLoss, type DecoderIds } from "../../objectives/text-to-text.js";
import { sentinelTokens } from "../../text/build-bpe.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import { clozeOf, dialogueOf, type Cloze } from "../stage-2/cloze.js";
import { answerMeasureOf, type AnswerMeasure } from "./answers.js";
import {
  condense,
  condensedFeeds,
  condensedInputs,
  plainPositions,
  type CondensedPosition,
} from "./condensed.js";
import { startWeights } from "../../training/start-weights.js";
import { textKeys, TextOrder } from "./text-order.js";
import { paddedIds, paddedRows, rememberingEncoder } from "../../training/token-rows.js";
import { equalParts, trainerKeys, weightSlots, type Task } from "../../training/trainer.js";

const forms = ["dialogues", "blanks", "questions", "captions"] as const;
type Form = (typeof forms)[number];

export const t5LanguageModelConfigSchema = z
  .strictObject({
    /** A folder made by `blip2 scenes`, or one with text_train.jsonl and text_test.jsonl alike. */
    data: z.string(),
    /** Sizes of the model; its vocabulary is that of the tokenizer, which is made from the text. */
    model: z.strictObject({
      model_type: z.literal("t5"),
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
  });

export type T5LanguageModelConfig = z.infer<typeof t5LanguageModelConfigSchema>;

/** Whether the configuration of a language model, checked or not, is one of a T5. */
export function isT5Config(config: unknown): config is T5LanguageModelConfig {
  return (config as { model?: { model_type?: unknown } } | null)?.model?.model_type === "t5";
}

/** Asks in the form that the paper has for FLAN-T5. */
export const shortAnswerPrompt = (question: string): string => `Question: ${question} Short answer:`;

/** The T5 configuration of a run, in Hugging Face's keys: v1.1, with BLIP-2's exact GELU. */
export function t5ConfigOf({ model }: T5LanguageModelConfig, tokenizer: TextTokenizer): T5Config {
  const { pad, end } = t5Ids(tokenizer);
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

/** Padding starts the decoder, as in T5. */
function t5Ids(tokenizer: TextTokenizer): DecoderIds & { readonly end: number } {
  const pad = tokenizer.specialIds.pad!;
  return { pad, start: pad, end: tokenizer.specialIds.eos! };
}

/** Token ids, each with the end token. */
interface PairRow {
  /** For the encoder. */
  readonly text: readonly number[];
  /** How many of its tokens, from the first, are the description. */
  readonly described: number;
  /** From the decoder; `ignoreIndex` where nothing is learnt. */
  readonly labels: readonly number[];
  /** What the decoder reads, one place later; the labels where absent. */
  readonly said?: readonly number[];
}

export interface T5LanguageModelTask extends Task {
  readonly model: T5;
}

export async function t5LanguageModelTask(
  device: Device,
  config: T5LanguageModelConfig,
  tokenizer: TextTokenizer,
  train: readonly DescribedScene[],
  test: readonly DescribedScene[],
): Promise<T5LanguageModelTask> {
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
  const measure = await t5AnswerMeasure(device, parameters, model, writer, test);
  return {
    parameters,
    model,
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

function plainInputs(model: T5): { readonly inputsEmbeds: Tensor; readonly encoderMask: Tensor } {
  return {
    inputsEmbeds: model.embed(input("ids", "int64", ["B", "S"])),
    encoderMask: input("mask", "int64", ["B", "S"]),
  };
}

const plainFeeds = (rows: readonly PairRow[], pad: number): HostTensors =>
  paddedIds(
    rows.map(({ text }) => text),
    pad,
  );

function spokenInputs(): { readonly labels: Tensor; readonly said: Tensor } {
  return { labels: input("labels", "int64", ["B", "T"]), said: input("said", "int64", ["B", "T"]) };
}

function spokenFeeds(rows: readonly PairRow[]): HostTensors {
  return {
    labels: paddedRows(
      rows.map(({ labels }) => labels),
      ignoreIndex,
    ),
    said: paddedRows(
      rows.map(({ labels, said = labels }) => said),
      ignoreIndex,
    ),
  };
}

/** Writes described scenes as pairs of texts. */
export class PairWriter {
  readonly ids: DecoderIds & { readonly end: number };
  private readonly sentinels: readonly number[];
  private readonly encode: (text: string) => readonly number[];

  /** @param most tokens of a row with several answers, on the side that holds them. */
  constructor(
    tokenizer: TextTokenizer,
    private readonly most = Infinity,
  ) {
    this.ids = t5Ids(tokenizer);
    this.encode = rememberingEncoder(tokenizer);
    this.sentinels = sentinelTokens
      .filter((token) => tokenizer.has(token))
      .map((token) => tokenizer.idOf(token));
  }

  pair(form: Form, scene: DescribedScene, random: Random, shares: Shares): PairRow {
    switch (form) {
      case "dialogues":
        return this.dialogue(scene, random, shares);
      case "blanks":
        return this.blanks(scene, random, shares);
      case "questions": {
        const { question, answer } = random.pick(scene.questions);
        const asked = { before: shortAnswerPrompt(question), missing: answer };
        if (random.chance(shares.splitShare)) return this.behind(scene.description, asked, random);
        if (random.chance(shares.echoShare)) return this.echo(scene.description, question, answer);
        return this.behind(scene.description, asked);
      }
      case "captions":
        return this.caption(scene, random);
    }
  }

  /** A question behind a description, and its answer. */
  question(description: string, question: string, answer: string): PairRow {
    return this.behind(description, { before: shortAnswerPrompt(question), missing: answer });
  }

  private echo(description: string, question: string, answer: string): PairRow {
    const answered = `${shortAnswerPrompt(question)} ${answer}`.slice("Question: ".length);
    return this.behind(description, { before: `Question: ${question}`, missing: answered });
  }

  private caption({ description, captions, statements }: DescribedScene, random: Random): PairRow {
    if (statements.length > 0 && random.chance(0.3))
      return this.behind(description, clozeOf(random.pick(statements)));
    const words = random.pick(captions).split(" ");
    const middle = Math.floor(words.length / 2);
    const cut = middle > 0 && random.chance(0.5) ? random.between(1, middle) : 0;
    return this.behind(description, {
      before: words.slice(0, cut).join(" "),
      missing: words.slice(cut).join(" "),
    });
  }

  /** @param split draws up to where the encoder reads what comes before; to its end where absent. */
  private behind(description: string, { before, missing }: Cloze, split?: Random): PairRow {
    const words = before === "" ? [] : this.encode(before);
    const cut = split?.between(0, words.length) ?? words.length;
    const answer = [...this.encode(missing), this.ids.end];
    const given = words.slice(cut);
    const described = this.encode(`${description} .`);
    return {
      text: [...described, ...words.slice(0, cut), this.ids.end],
      described: described.length,
      labels: [...given.map(() => ignoreIndex), ...answer],
      said: [...given, ...answer],
    };
  }

  /** As many of the questions and statements as fit, in random order; what they are about is read, not learnt. */
  private dialogue(
    { description, questions, statements }: DescribedScene,
    random: Random,
    shares: Shares,
  ): PairRow {
    const asked = clozes(questions, statements, random, shares);
    const described = this.encode(`${description} .`);
    const text = [...described, this.ids.end];
    return { text, described: described.length, ...dialogueOf(asked, this.encode, this.ids.end, this.most) };
  }

  /** Some of the questions and statements, as far as they fit, in random order. */
  private blanks(
    { description, questions, statements }: DescribedScene,
    random: Random,
    shares: Shares,
  ): PairRow {
    const described = this.encode(`${description} .`);
    const text = [...described];
    const labels: number[] = [];
    let next = 0;
    const count = random.between(1, shares.mostBlanks);
    for (const { before, missing } of clozes(questions, statements, random, shares)) {
      const words = this.encode(before);
      if (next === count || text.length + words.length + 2 > this.most) continue;
      const sentinel = this.sentinels[next++]!;
      text.push(...words, sentinel);
      labels.push(sentinel, ...this.encode(missing));
    }
    return { text: [...text, this.ids.end], described: described.length, labels: [...labels, this.ids.end] };
  }
}

/** Questions and statements of a text in their shares, in random order, with what is missing in each. */
function clozes(
  questions: DescribedScene["questions"],
  statements: readonly string[],
  random: Random,
  { bareShare, statementShare, typeShares }: Shares,
): Cloze[] {
  const asked = questions
    .filter(({ type }) => random.chance(typeShares[type] ?? 1))
    .map(({ question, answer }): Cloze => {
      const isBare = random.chance(bareShare);
      return {
        before: isBare ? question.replace(/\?$/, "") : shortAnswerPrompt(question),
        missing: answer,
      };
    });
  const stated = statements.filter(() => random.chance(statementShare)).map(clozeOf);
  return random.shuffle([...asked, ...stated]);
}

type Shares = Pick<
  T5LanguageModelConfig,
  "mostBlanks" | "bareShare" | "splitShare" | "echoShare" | "statementShare" | "typeShares"
>;

/** Answers from written descriptions, measured with the weights in the device's slots. */
export async function t5AnswerMeasure(
  device: Device,
  parameters: Parameters,
  model: T5,
  writer: PairWriter,
  test: readonly DescribedScene[],
): Promise<AnswerMeasure> {
  const batch = { ...plainInputs(model), ...spokenInputs() };
  const choice = ops.argmax(textToTextLogits(model, batch, writer.ids));
  const isWrong = ops.and(
    ops.lessOrEqual(integer(0), batch.labels),
    ops.not(ops.equal(choice, batch.labels)),
  );
  const wrong = ops.reduceSum(ops.cast(isWrong, "float32"), [1]);
  const program = await device.compile(
    { right: ops.where(ops.less(0, wrong), 0, 1) },
    { residentInputs: weightSlots(parameters) },
  );
  return answerMeasureOf(test, async (questions, signal) => {
    const rows = questions.map(({ description, question, answer }) =>
      writer.question(description, question, answer),
    );
    const { right } = await program.run(
      { ...plainFeeds(rows, writer.ids.pad), ...spokenFeeds(rows) },
      { signal },
    );
    return right!.data;
  });
}
