/** What the files of a written BLIP-2 say about its language model. */
import { UserError } from "../../errors.js";
import type { JsonObject } from "../../files/json-file.js";
import type { FrozenLanguageModel } from "../../loading/frozen-language-model.js";
import type { TextTokenizer } from "../../text/tokenizer.js";

/**
 * The id that stands for a query in what Python's processor makes: the tokenizer's `<image>`, or the first id
 * behind its tokens, which is where that processor adds one. Throws a `UserError` if the word table has no row for it.
 */
function imageTokenOf({ model, path }: FrozenLanguageModel, tokenizer: TextTokenizer): number {
  const id = tokenizer.has("<image>") ? tokenizer.idOf("<image>") : tokenizer.vocabularySize;
  const { vocabularySize: rows } = model;
  if (id < rows && tokenizer.vocabularySize <= rows) return id;
  throw new UserError(
    `${path}: its tokenizer has ${tokenizer.vocabularySize} tokens, its word table ${rows} rows; ` +
      `a row for each and for the image token ${id} is required; check that the two belong together`,
  );
}

/** Of config.json and generation_config.json, what depends on the language model. */
export interface LanguageModelFiles {
  readonly config: {
    readonly text_config: JsonObject;
    readonly image_token_index: number;
    readonly use_decoder_only_language_model: boolean;
  };
  readonly generationConfig: JsonObject;
}

/** Throws a `UserError` if tokenizer and language model do not belong together. */
export function languageModelFiles(
  languageModel: FrozenLanguageModel,
  tokenizer: TextTokenizer,
): LanguageModelFiles {
  const { config, family, path } = languageModel;
  const { model_type: type, ...text } = config;
  const image = imageTokenOf(languageModel, tokenizer);
  const ids = family.writtenIds(family.textIds(config, tokenizer, path));
  return {
    config: {
      text_config: { model_type: type, architectures: [family.architecture], ...text, ...ids.textConfig },
      image_token_index: image,
      use_decoder_only_language_model: family.kind === "decoder-only",
    },
    generationConfig: { ...ids.generationConfig },
  };
}
