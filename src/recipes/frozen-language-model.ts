/**
 * The frozen language model of stage 2, OPT or T5: read from its folder, put into a graph, and what a written
 * model says about it.
 */
import type { z } from "zod";
import type { JsonObject } from "../files/json-file.js";
import { toFloat32 } from "../float16.js";
import { checkTensors, readModelFolder, type ModelFolder } from "../checkpoints/model-folder.js";
import type { Weights } from "../engine/index.js";
import { UserError } from "../errors.js";
import { Opt, optConfigSchema, type OptConfig } from "../models/language/opt.js";
import { isUnreadT5Tensor, T5, t5ConfigSchema, type T5Config } from "../models/language/t5.js";
import { Parameters } from "../nn/parameters.js";
import type { DecoderIds } from "../objectives/text-to-text.js";
import type { TextTokenizer } from "../text/tokenizer.js";
import { newlineId } from "./scenes-parts/language-model.js";

interface Frozen {
  readonly folder: ModelFolder;
  /** Under `language_model.`. */
  readonly weights: Weights;
  /** The name of the word table among them. */
  readonly wordTable: string;
}

export interface FrozenOpt extends Frozen {
  readonly kind: "opt";
  readonly config: OptConfig;
}

export interface FrozenT5 extends Frozen {
  readonly kind: "t5";
  readonly config: T5Config;
}

export type FrozenLanguageModel = FrozenOpt | FrozenT5;

const prefix = "language_model";

/** Throws a `UserError` naming what does not fit: another kind of model, its config, its weights. */
export async function readFrozenLanguageModel(path: string): Promise<FrozenLanguageModel> {
  const folder = await readModelFolder(path);
  const { config, weights } = folder;
  const type = config["model_type"];
  const parameters = new Parameters(() => false);
  if (type === "opt") {
    const opt = parsed(optConfigSchema, config, path);
    const { embeddingSize } = new Opt(opt, parameters.scope());
    if (embeddingSize !== opt.hidden_size)
      throw new UserError(
        `${path}: stage 2 needs a language model whose words are as wide as its layers (${embeddingSize} and ${opt.hidden_size})`,
      );
    // The head is the word table; files that store it twice are read all the same.
    const values = await readWeights(folder, parameters, (name) => name === "lm_head.weight");
    const wordTable = `${prefix}.model.decoder.embed_tokens.weight`;
    return { kind: "opt", folder, config: opt, weights: values, wordTable };
  }
  if (type === "t5") {
    const t5 = parsed(t5ConfigSchema, config, path);
    const { wordTable } = new T5(t5, parameters.scope(), weights.tensors);
    const values = await readWeights(folder, parameters, isUnreadT5Tensor);
    return { kind: "t5", folder, config: t5, weights: values, wordTable: `${prefix}.${wordTable}` };
  }
  throw new UserError(
    `${path}: model_type "${String(type)}" is no language model that stage 2 can use (opt, t5)`,
  );
}

function parsed<T extends z.ZodType>(schema: T, config: JsonObject, path: string): z.infer<T> {
  const result = schema.safeParse(config);
  if (result.success) return result.data;
  const problems = result.error.issues.map(({ path: key, message }) => `${key.join(".")}: ${message}`);
  throw new UserError(`${path}/config.json: ${problems.join("; ")}`);
}

async function readWeights(
  { path, weights }: ModelFolder,
  { shapes }: Parameters,
  ignored: (name: string) => boolean,
): Promise<Weights> {
  checkTensors(shapes, weights.tensors, path, { ignored });
  const tensors = await weights.readAll(shapes.keys());
  return new Map([...tensors].map(([name, value]) => [`${prefix}.${name}`, value]));
}

/** The model in the graph of `parameters`, where it is `language_model`. */
export function frozenOpt({ config }: FrozenOpt, parameters: Parameters): Opt {
  return new Opt(config, parameters.scope(prefix));
}

/** The same for T5. */
export function frozenT5({ config, weights }: FrozenT5, parameters: Parameters): T5 {
  return new T5(config, parameters.scope(prefix), weights);
}

/** Width of words and of the soft prompt. */
export function wordSize(languageModel: FrozenLanguageModel): number {
  return languageModel.kind === "opt" ? languageModel.config.hidden_size : languageModel.config.d_model;
}

/** Whether the model drops anything while it is trained through. */
export function hasDropout(languageModel: FrozenLanguageModel): boolean {
  if (languageModel.kind === "t5") return languageModel.config.dropout_rate > 0;
  const { dropout, attention_dropout: attention } = languageModel.config;
  return dropout > 0 || attention > 0;
}

/** Root mean square of the word table. */
export function wordSpread({ weights, wordTable }: FrozenLanguageModel): number {
  const table = toFloat32(weights.get(wordTable)!).data as Float32Array;
  return Math.sqrt(table.reduce((sum, value) => sum + value * value, 0) / table.length);
}

/** The ids that a T5's texts are made with. */
export interface T5Ids extends DecoderIds {
  /** Ends every text of encoder and decoder. */
  readonly end: number;
}

/**
 * The ids of a T5 and its tokenizer. Throws a `UserError` if the tokenizer does not end texts with the model's end
 * token, as T5's does, and if there is no token to pad with.
 */
export function t5IdsOf({ folder: { path }, config }: FrozenT5, tokenizer: TextTokenizer): T5Ids {
  const { eos_token_id: end, decoder_start_token_id: start } = config;
  const empty = tokenizer.encode("");
  if (end === null || empty.length !== 1 || empty[0] !== end) {
    throw new UserError(
      `${path}: a T5 reads and writes texts that end with its eos_token_id, which config.json says is ${end}; ` +
        `its tokenizer makes [${empty.join(", ")}] of an empty text; check that the two belong together`,
    );
  }
  const pad = config.pad_token_id ?? tokenizer.specialIds.pad;
  if (pad === undefined) {
    throw new UserError(
      `${path}: a T5 needs pad_token_id in config.json, or a pad_token in tokenizer_config.json; neither is there`,
    );
  }
  return { end, pad, start: start ?? pad };
}

/**
 * The id that stands for a query in what Python's processor makes: the tokenizer's `<image>`, or the first id
 * behind its tokens, which is where that processor adds one. Throws a `UserError` if the word table has no row for it.
 */
function imageTokenOf({ config, folder }: FrozenLanguageModel, tokenizer: TextTokenizer): number {
  const id = tokenizer.has("<image>") ? tokenizer.idOf("<image>") : tokenizer.vocabularySize;
  if (id < config.vocab_size && tokenizer.vocabularySize <= config.vocab_size) return id;
  throw new UserError(
    `${folder.path}: its tokenizer has ${tokenizer.vocabularySize} tokens, its word table ${config.vocab_size} rows; ` +
      `a row for each and for the image token ${id} is required; check that the two belong together`,
  );
}

/** Of the config.json and generation_config.json of a written BLIP-2, what depends on the language model. */
export interface LanguageModelFiles {
  readonly config: {
    readonly text_config: JsonObject;
    readonly image_token_index: number;
    readonly use_decoder_only_language_model: boolean;
  };
  readonly generationConfig: JsonObject;
}

export function languageModelFiles(
  languageModel: FrozenLanguageModel,
  tokenizer: TextTokenizer,
): LanguageModelFiles {
  const image = imageTokenOf(languageModel, tokenizer);
  const { model_type: _type, ...text } = languageModel.config;
  if (languageModel.kind === "opt") {
    return {
      config: {
        text_config: { model_type: "opt", architectures: ["OPTForCausalLM"], ...text },
        image_token_index: image,
        use_decoder_only_language_model: true,
      },
      generationConfig: optGenerationConfig(tokenizer),
    };
  }
  const { end, pad, start } = t5IdsOf(languageModel, tokenizer);
  const ids = {
    // Stands in the encoder where there is no prompt: what the end of an empty one is.
    bos_token_id: end,
    eos_token_id: end,
    pad_token_id: pad,
    decoder_start_token_id: start,
  };
  return {
    config: {
      text_config: { model_type: "t5", architectures: ["T5ForConditionalGeneration"], ...text, ...ids },
      image_token_index: image,
      use_decoder_only_language_model: false,
    },
    generationConfig: ids,
  };
}

/** An OPT of a small world starts with `</s>` and ends a text with a line break. */
export function optGenerationConfig(tokenizer: TextTokenizer): JsonObject {
  const [start, end, pad] = [tokenizer.idOf("</s>"), newlineId(tokenizer), tokenizer.idOf("<pad>")];
  return { bos_token_id: start, eos_token_id: end, pad_token_id: pad };
}
