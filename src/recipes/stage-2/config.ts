/** The configuration of stage 2. */
import { z } from "zod";
import { UserError } from "../../errors.js";
import type { FrozenLanguageModel } from "../../loading/frozen-language-model.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import { equalParts, trainerKeys } from "../../training/trainer.js";
import { featureKeys, pictureKeys } from "../picture-data.js";

/** Keys that only statements serve. */
const statementKeys = z
  .strictObject({
    /**
     * Share of the rows that hold statements in place of a caption, from statements_SPLIT.json. A caption tells of all
     * things in one order. A statement is given up to its verb ("the color of the star is"), and what is learnt is
     * to go on with what is true of that thing.
     */
    share: z.number().min(0).max(1).default(0),
    /**
     * How many statements such a row holds, as far as they fit: one behind the other, each with an end token; for
     * an encoder-decoder with blanks that its decoder fills.
     */
    perRow: z.int().positive().default(4),
    /**
     * How an encoder-decoder meets statements: with a sentinel in the place of what each says ("blanks", if not given), or one behind
     * the other in its decoder ("dialogue"). A frozen model can only do what it learnt before. For an encoder-decoder alone.
     */
    form: z.enum(["blanks", "dialogue"]).optional(),
  })
  .prefault({});

/** Keys about the size of the soft prompt. */
const softPromptKeys = z
  .strictObject({
    /** Starts the language projection at the spread of the frozen word table, not at PyTorch's default. */
    matchWordScale: z.boolean().default(true),
    /**
     * How large the soft prompt is at the start, in multiples of the root mean square of the frozen word table. Where the
     * layers of a T5's encoder add much more than words are large (`condensedScale` of its training), a soft prompt as
     * large as words is drowned.
     */
    start: z.number().positive().default(1),
    /**
     * Largest root mean square of a position of the soft prompt, in multiples of that of the frozen word table; what is
     * above it costs (`promptScalePenalty`). Without it nothing does, as in the paper.
     */
    limit: z.number().positive().optional(),
  })
  .refine(({ matchWordScale, start }) => matchWordScale || start === 1, {
    path: ["start"],
    message:
      "is counted in the spread of words, which matchWordScale: false leaves aside: take one of them out",
  })
  .prefault({});

const fields = z
  .strictObject({
    ...pictureKeys,
    ...featureKeys,
    /** The folder that stage 1 wrote, or a name on the hub: the bridge's start, and the frozen image encoder. */
    stage1: z.string(),
    /** The frozen language model: its folder, that of a whole BLIP-2, or a name on the hub. */
    languageModel: z.string(),
    /** Text before every caption, on which nothing is learnt; an encoder-decoder reads it in its encoder. */
    prompt: z.string().default(""),
    /** Longest row in tokens, the start and end tokens included; of encoder and decoder each. */
    maxTextLength: z.int().min(3).default(40),
    /** Whether the start token is a target of the last query, as in the reference without a prompt. For a decoder-only model. */
    learnStartToken: z.boolean().default(false),
    /**
     * Share of captions of which an encoder reads a beginning and its decoder says the rest, 0.5 if not given; of
     * the others the decoder says all. For an encoder-decoder alone.
     */
    splitShare: z.number().min(0).max(1).optional(),
    statements: statementKeys,
    softPrompt: softPromptKeys,
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
  .refine(({ start, softPrompt }) => start === undefined || softPrompt.start === 1, {
    path: ["softPrompt", "start"],
    message: "cannot stand beside start, whose soft prompt has its size already: leave one of them out",
  })
  .refine(({ start, freshQFormer }) => start === undefined || !freshQFormer, {
    path: ["freshQFormer"],
    message: "cannot stand beside start, which names the weights to begin with: leave one of them out",
  });

/** Keys of version 0.3 -> where they are now. */
const moved: Readonly<Record<string, string>> = {
  statementShare: "statements.share",
  statementForm: "statements.form",
  matchWordScale: "softPrompt.matchWordScale",
  promptStart: "softPrompt.start",
  promptScale: "softPrompt.limit",
};

export const stage2ConfigSchema = z.preprocess((json, context) => {
  if (typeof json !== "object" || json === null) return json;
  const rest: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(json)) {
    const place = key === "statements" && typeof value === "number" ? "statements.perRow" : moved[key];
    if (place === undefined) rest[key] = value;
    else context.addIssue({ code: "custom", path: [key], message: `has moved to ${place}`, input: value });
  }
  return rest;
}, fields);

export type Stage2Config = z.infer<typeof stage2ConfigSchema>;

/**
 * Throws a `UserError` naming a key that is for another kind of language model than this one, and a prompt that leaves
 * no room for a caption.
 */
export function checkStage2Config(
  { prompt, maxTextLength, splitShare, statements, learnStartToken }: Stage2Config,
  { path, family }: Pick<FrozenLanguageModel, "path" | "family">,
  tokenizer: TextTokenizer,
): void {
  const { kind } = family;
  for (const [key, value] of Object.entries({ splitShare, "statements.form": statements.form })) {
    if (kind === "decoder-only" && value !== undefined)
      throw new UserError(
        `${key} is for an encoder-decoder, ${path} is decoder-only and has no encoder; leave it out`,
      );
  }
  if (kind === "encoder-decoder" && learnStartToken)
    throw new UserError(
      `learnStartToken is for a decoder-only language model, ${path} is an encoder-decoder; leave it out`,
    );
  const length = tokenizer.encode(prompt).length;
  if (length >= maxTextLength) {
    throw new UserError(
      `prompt has ${length} tokens, maxTextLength is ${maxTextLength}: more is required, for the caption`,
    );
  }
}
