/** vocab.txt (BERT: WordPiece) as the structure of a tokenizer.json. */
import { UserError } from "../errors.js";
import { addedTokens, tokensByRole, type LegacyConfig } from "./legacy-added-tokens.js";
import { Part, type JsonObject } from "./parts.js";

const defaults = {
  unk_token: "[UNK]",
  sep_token: "[SEP]",
  pad_token: "[PAD]",
  cls_token: "[CLS]",
  mask_token: "[MASK]",
};

/** `lines` is the text of vocab.txt: a token's id is the number of its line, from 0. `where` names the folder in errors. */
export function legacyWordPiece(
  lines: string,
  files: LegacyConfig,
  where: string,
): { json: JsonObject; config: JsonObject } {
  const words = lines.split(/\r?\n/);
  if (words.at(-1) === "") words.pop();
  const vocabulary = new Map(words.map((word, id) => [word, id]));
  const byRole = tokensByRole(files, defaults);
  const added = addedTokens(files, vocabulary, byRole);
  const needed = (role: "cls_token" | "sep_token" | "unk_token"): string => {
    const content = byRole[role];
    if (content !== undefined && vocabulary.has(content)) return content;
    throw new UserError(
      `${where}/vocab.txt: a line for the ${role} ${content ?? "(none is named)"} is required, there is none`,
    );
  };
  const [cls, sep, unk] = [needed("cls_token"), needed("sep_token"), needed("unk_token")];
  const special = (id: string, type_id = 0) => ({ SpecialToken: { id, type_id } });
  const sequence = (id: string, type_id = 0) => ({ Sequence: { id, type_id } });
  const single = [special(cls), sequence("A"), special(sep)];
  const { config } = files;
  const settings = new Part(`${where}/tokenizer_config.json`, config);
  return {
    json: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: {
        type: "BertNormalizer",
        clean_text: true,
        handle_chinese_chars: settings.boolean("tokenize_chinese_chars", true),
        strip_accents: settings.has("strip_accents") ? settings.boolean("strip_accents") : null,
        lowercase: settings.boolean("do_lower_case", true),
      },
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: {
        type: "TemplateProcessing",
        single,
        pair: [...single, sequence("B", 1), special(sep, 1)],
        special_tokens: Object.fromEntries(
          [cls, sep].map((id) => [id, { id, ids: [vocabulary.get(id)], tokens: [id] }]),
        ),
      },
      decoder: { type: "WordPiece", prefix: "##", cleanup: true },
      model: {
        type: "WordPiece",
        unk_token: unk,
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab: Object.fromEntries(vocabulary),
      },
    },
    config: { ...config, ...byRole },
  };
}
