/** spiece.model (T5: sentencepiece, unigram) as the structure of a tokenizer.json. */
import { quoted } from "../quoted.js";
import { UserError } from "../errors.js";
import { addedTokens, furtherTokens, tokensByRole, type LegacyConfig } from "./legacy-added-tokens.js";
import type { JsonObject } from "./parts.js";
import { pieceType, readSentencePieceModel } from "./sentencepiece-model.js";

const defaults = { eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" };

/** `bytes` is spiece.model; `where` names the folder in errors. The extra ids follow the pieces, the last one first, as T5 has them. */
export function legacyUnigram(
  bytes: Uint8Array,
  files: LegacyConfig,
  where: string,
): { json: JsonObject; config: JsonObject } {
  const { pieces, unkId, charsmap } = readSentencePieceModel(bytes, `${where}/spiece.model`);
  const { config } = files;
  const count = config["extra_ids"] ?? 100;
  if (!Number.isSafeInteger(count) || (count as number) < 0 || (count as number) > 100_000) {
    throw new UserError(
      `${where}/tokenizer_config.json: extra_ids must be a number of tokens, got ${quoted(count)}`,
    );
  }
  const extra = Array.from({ length: count as number }, (_, i) => `<extra_id_${(count as number) - 1 - i}>`);
  const vocab = [
    ...pieces.map(({ piece, score }) => [piece, score] as const),
    ...extra.map((content) => [content, 0] as const),
  ];
  const vocabulary = new Map(vocab.map(([piece], id) => [piece, id]));
  const byRole = tokensByRole(files, defaults);
  const own = pieces
    .filter(({ type }) => type === pieceType.control || type === pieceType.userDefined)
    .map(({ piece, type }) => ({ content: piece, special: type === pieceType.control }));
  // A list in the files takes the place of the model's own.
  const first =
    furtherTokens(files) === undefined
      ? [...own, ...extra.map((content) => ({ content, special: true }))]
      : [];
  const added = addedTokens(files, vocabulary, byRole, first);
  const end = added.find(({ content }) => content === (byRole.eos_token ?? defaults.eos_token));
  if (end === undefined)
    throw new UserError(`${where}/spiece.model: has no piece ${defaults.eos_token}, which ends texts`);
  const last = { SpecialToken: { id: end.content, type_id: 0 } };
  const sequence = (id: string) => ({ Sequence: { id, type_id: 0 } });
  const metaspace = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always", split: true };
  return {
    json: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer:
        charsmap.length === 0
          ? null
          : { type: "Precompiled", precompiled_charsmap: Buffer.from(charsmap).toString("base64") },
      pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "WhitespaceSplit" }, metaspace] },
      post_processor: {
        type: "TemplateProcessing",
        single: [sequence("A"), last],
        pair: [sequence("A"), last, sequence("B"), last],
        special_tokens: { [end.content]: { id: end.content, ids: [end.id], tokens: [end.content] } },
      },
      decoder: metaspace,
      model: { type: "Unigram", unk_id: unkId, vocab, byte_fallback: false },
    },
    config: { ...config, ...byRole },
  };
}
