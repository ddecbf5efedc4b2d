/**
 * The language models that may stand behind the bridge, by the `model_type` of their config.json: all that depends on
 * the family, once. A new one is a file beside this, which is a `DecoderOnly` or an `EncoderDecoder`, its schema in the
 * union, and an entry in the table.
 */
import { z } from "zod";
import { UserError } from "../../errors.js";
import type { Scope } from "../../nn/parameters.js";
import type { TextTokenizer } from "../../text/text-tokenizer.js";
import type { LanguageModel } from "./language-model.js";
import { Opt, optConfigSchema, type OptConfig } from "./opt.js";
import { isUnreadT5Tensor, T5, t5ConfigSchema, type T5Config } from "./t5.js";

/** A config.json, or BLIP-2's `text_config`. */
export const languageConfigSchema = z.discriminatedUnion("model_type", [optConfigSchema, t5ConfigSchema]);

export type LanguageConfig = z.infer<typeof languageConfigSchema>;
export type FamilyName = LanguageConfig["model_type"];

/** Says which tensors a checkpoint has, by full name. */
export interface StoredNames {
  has(name: string): boolean;
}

/** A key of the config, what it says, whether that is possible behind the bridge, and what is. */
export type ConfigRule = readonly [key: string, value: unknown, fits: boolean, required: string];

/** The ids that texts are made with in training. */
export interface TextIds {
  /** Before a text that goes on behind nothing; where an encoder-decoder's decoder starts. */
  readonly start: number;
  readonly end: number;
  readonly pad: number;
}

export interface LanguageFamily<Config extends LanguageConfig = LanguageConfig> {
  readonly kind: LanguageModel["kind"];
  /** Its class in Python's transformers. */
  readonly architecture: string;
  /** Declares the model at `scope`. What `stored` says may decide which weights there are. */
  build(config: Config, scope: Scope, stored?: StoredNames): LanguageModel;
  /** Whether a tensor, by its name in a checkpoint of the model alone, may be there without being read. */
  isUnread(name: string): boolean;
  /** What of a config does not go together with the bridge. */
  rules(config: Config): readonly ConfigRule[];
  /** Ids of published models whose files do not say them. */
  readonly usualIds: { readonly start: number; readonly pad: number };
  /** The paper's form of a question, which goes where `{}` stands. */
  readonly questionFormat: string;
  /** LAVIS's, for short answers. */
  readonly answerLengthPenalty: number;
  /** Throws a `UserError` that begins with `where` if config and tokenizer do not belong together. */
  textIds(config: Config, tokenizer: TextTokenizer, where: string): TextIds;
  /** What of `ids` the written files name: keys of `text_config`, and keys of generation_config.json. */
  writtenIds(ids: TextIds): {
    readonly textConfig: Readonly<Record<string, number>>;
    readonly generationConfig: Readonly<Record<string, number>>;
  };
}

const opt: LanguageFamily<OptConfig> = {
  kind: "decoder-only",
  architecture: "OPTForCausalLM",
  build: (config, scope) => new Opt(config, scope),
  // The head is the word table; files that store it twice are read all the same.
  isUnread: (name) => name === "lm_head.weight",
  rules: ({ num_attention_heads: heads, hidden_size: width, word_embed_proj_dim: words, ...config }) => [
    ["num_attention_heads", heads, width % heads === 0, `a divisor of hidden_size ${width}`],
    [
      "word_embed_proj_dim",
      words,
      // Words are narrower than the language projection; transformers would cut its rows in the wrong places.
      (words ?? width) === width,
      `hidden_size ${width}, the width of the soft prompt`,
    ],
    [
      "tie_word_embeddings",
      config["tie_word_embeddings"],
      config["tie_word_embeddings"] !== false,
      "true: the head is the word table",
    ],
  ],
  usualIds: { start: 2, pad: 1 },
  questionFormat: "Question: {} Answer:",
  answerLengthPenalty: 0,
  // Starts with `</s>`, and ends a caption or an answer with a line break, as published BLIP-2 with OPT does.
  textIds: (_config, tokenizer) => ({
    start: tokenizer.idOf("</s>"),
    end: tokenizer.encode("\n", { addSpecialTokens: false }).at(-1)!,
    pad: tokenizer.specialIds.pad!,
  }),
  writtenIds: ({ start, end, pad }) => ({
    textConfig: {},
    generationConfig: { bos_token_id: start, eos_token_id: end, pad_token_id: pad },
  }),
};

const t5: LanguageFamily<T5Config> = {
  kind: "encoder-decoder",
  architecture: "T5ForConditionalGeneration",
  build: (config, scope, stored) => new T5(config, scope, stored),
  isUnread: isUnreadT5Tensor,
  rules: () => [],
  usualIds: { start: 1, pad: 0 },
  questionFormat: "Question: {} Short answer:",
  answerLengthPenalty: -1,
  textIds: ({ eos_token_id: ends, decoder_start_token_id: start, pad_token_id }, tokenizer, where) => {
    const empty = tokenizer.encode("");
    const [only] = empty;
    if (only === undefined || empty.length !== 1 || ![ends].flat().includes(only)) {
      throw new UserError(
        `${where}: a T5 reads and writes texts that end with its eos_token_id, which config.json says is ${ends}; ` +
          `its tokenizer makes [${empty.join(", ")}] of an empty text; check that the two belong together`,
      );
    }
    const pad = pad_token_id ?? tokenizer.specialIds.pad;
    if (pad === undefined) {
      throw new UserError(
        `${where}: a T5 needs pad_token_id in config.json, or a pad_token in tokenizer_config.json; neither is there`,
      );
    }
    return { end: only, pad, start: start ?? pad };
  },
  writtenIds: ({ start, end, pad }) => {
    // `bos` stands in the encoder where there is no prompt: what the end of an empty one is.
    const ids = { bos_token_id: end, eos_token_id: end, pad_token_id: pad, decoder_start_token_id: start };
    return { textConfig: ids, generationConfig: ids };
  },
};

const families: {
  readonly [Name in FamilyName]: LanguageFamily<Extract<LanguageConfig, { model_type: Name }>>;
} = { opt, t5 };

export const familyNames = Object.keys(families) as readonly FamilyName[];

/** The family of a checked config. */
export function familyOf(config: Pick<LanguageConfig, "model_type">): LanguageFamily {
  // The table's type says that entry and config belong together.
  return families[config.model_type];
}

/** The family that a config.json or `text_config` names, if it is one of these. */
export function familyNamed(modelType: unknown): LanguageFamily | undefined {
  return familyNames.includes(modelType as FamilyName)
    ? familyOf({ model_type: modelType as FamilyName })
    : undefined;
}
