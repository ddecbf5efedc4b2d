/** vocab.json and merges.txt (GPT-2 and OPT: byte-level BPE) as the structure of a tokenizer.json. */
import { quoted } from "../quoted.js";
import { UserError } from "../errors.js";
import { addedTokens, tokensByRole, type LegacyConfig } from "./legacy-added-tokens.js";
import { checkedId, type JsonObject } from "./parts.js";

const endOfText = "<|endoftext|>";
const defaults = { bos_token: endOfText, eos_token: endOfText, unk_token: endOfText };

/** `vocab` is the parsed vocab.json, `merges` the text of merges.txt; `where` names the folder in errors. */
export function legacyBpe(
  vocab: JsonObject,
  merges: string,
  files: LegacyConfig,
  where: string,
): { json: JsonObject; config: JsonObject } {
  for (const [token, id] of Object.entries(vocab)) checkedId(id, token, `${where}/vocab.json`);
  const vocabulary = new Map(Object.entries(vocab as Record<string, number>));
  const pairs = merges
    .split(/\r?\n/)
    .map((line, i) => [line, i + 1] as const)
    .filter(([line]) => line !== "" && !line.startsWith("#version"))
    .map(([line, number]) => {
      const pair = line.split(" ");
      if (pair.length === 2 && pair.every((half) => vocabulary.has(half)) && vocabulary.has(pair.join("")))
        return pair;
      throw new UserError(
        `${where}/merges.txt: line ${number} merges ${quoted(line)}, two tokens of vocab.json that make a third are required`,
      );
    });
  const byRole = tokensByRole(files, defaults);
  const added = addedTokens(files, vocabulary, byRole);
  const { config } = files;
  const around = (key: string, role: "bos_token" | "eos_token"): string[] =>
    config[key] === true && added.some(({ content }) => content === byRole[role]) ? [byRole[role]!] : [];
  const [before, after] = [around("add_bos_token", "bos_token"), around("add_eos_token", "eos_token")];
  const template = (sequence: string, type_id: number) => [
    ...before.map((id) => ({ SpecialToken: { id, type_id } })),
    { Sequence: { id: sequence, type_id } },
    ...after.map((id) => ({ SpecialToken: { id, type_id } })),
  ];
  const byteLevel = {
    type: "ByteLevel",
    add_prefix_space: config["add_prefix_space"] === true,
    trim_offsets: true,
    use_regex: true,
  };
  return {
    json: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: null,
      pre_tokenizer: byteLevel,
      post_processor: {
        type: "TemplateProcessing",
        single: template("A", 0),
        pair: [...template("A", 0), ...template("B", 1)],
        special_tokens: Object.fromEntries(
          [...before, ...after].map((content) => {
            const { id } = added.find((token) => token.content === content)!;
            return [content, { id: content, ids: [id], tokens: [content] }];
          }),
        ),
      },
      decoder: byteLevel,
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: "",
        end_of_word_suffix: "",
        fuse_unk: false,
        byte_fallback: false,
        vocab,
        merges: pairs,
      },
    },
    config: { ...config, ...byRole },
  };
}
