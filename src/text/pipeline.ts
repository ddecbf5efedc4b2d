/** The parts of a tokenizer.json put together: what Python's tokenizers calls a `Tokenizer`. */
import { cutter, readAddedTokens } from "./added-tokens.js";
import { readDecoder } from "./decoders.js";
import { readModel } from "./models.js";
import { readNormalizer } from "./normalizers.js";
import { Part, type JsonObject } from "./parts.js";
import { readPostProcessor, type Surroundings } from "./post-processors.js";
import { readPreTokenizer } from "./pre-tokenizers.js";
import { wellFormed } from "./unicode.js";

export interface Pipeline {
  /** Ids by token, added ones too. */
  readonly ids: ReadonlyMap<string, number>;
  /** Tokens by id. */
  readonly tokens: ReadonlyMap<number, string>;
  /** Ids of special tokens. */
  readonly special: ReadonlySet<number>;
  readonly isBpe: boolean;
  /** Special tokens that belong around a text. */
  readonly around: Surroundings;
  /** Ids of a text, nothing around them. */
  readonly encodeText: (text: string) => number[];
  readonly decodeTokens: (tokens: readonly string[]) => string;
}

/** Throws `UserError` for whatever in the two files cannot be used, by its place in them. */
export function readPipeline(json: JsonObject, config: JsonObject, where: string): Pipeline {
  const root = new Part(where, json);
  const optional = <T>(key: string, read: (part: Part) => T): T | undefined =>
    root.has(key) ? read(root.part(key)) : undefined;
  if (!root.has("model")) {
    throw root.refuse('cannot be used as a tokenizer (Tokenizer must contain a "model" property)');
  }
  const modelPart = root.part("model");
  const model = readModel(modelPart);
  const normalize = optional("normalizer", readNormalizer) ?? ((text: string) => text);
  mustKnowBeginnings(root);
  const split = optional("pre_tokenizer", readPreTokenizer) ?? ((piece) => [piece]);
  const around = optional("post_processor", readPostProcessor) ?? { before: [], after: [] };
  const decode = optional("decoder", readDecoder);
  const added = readAddedTokens(root, model.vocabulary, config);
  const cutRaw = cutter(added.filter(({ normalized }) => !normalized));
  const cutNormalized = cutter(
    added.filter(({ normalized }) => normalized),
    normalize,
  );

  const ids = new Map(model.vocabulary);
  for (const { content, id } of added) ids.set(content, id);
  const tokens = new Map(Array.from(ids, ([token, id]) => [id, token]));
  for (const id of [...around.before, ...around.after]) {
    if (!tokens.has(id))
      throw root.refuse(`post_processor puts the id ${id} around texts, which no token has`);
  }

  return {
    ids,
    tokens,
    special: new Set(added.filter(({ special }) => special).map(({ id }) => id)),
    isBpe: modelPart.has("merges"),
    around,
    encodeText(text) {
      const result: number[] = [];
      for (const section of cutRaw(wellFormed(text))) {
        if ("id" in section) {
          result.push(section.id);
          continue;
        }
        for (const inner of cutNormalized(normalize(section.text))) {
          if ("id" in inner) {
            result.push(inner.id);
            continue;
          }
          for (const piece of split({ text: inner.text, first: section.first && inner.first })) {
            model.encode(piece.text, result);
          }
        }
      }
      return result;
    },
    decodeTokens: (pieces) => (decode === undefined ? pieces.join(" ") : decode(pieces).join("")),
  };
}

/** Normalisers under which a text's beginning stays its beginning. */
const keepBeginnings = ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Precompiled"];

/**
 * Where a mark goes before the first word alone, Python's tokenizers asks where that word began before it was normalised. Throws
 * `UserError` for the combinations in which that is not known here.
 */
function mustKnowBeginnings(root: Part): void {
  const flat = (part: Part, list: string): Part[] =>
    part.has(list) ? part.parts(list).flatMap((inner) => flat(inner, list)) : [part];
  const normalizers = root.has("normalizer") ? flat(root.part("normalizer"), "normalizers") : [];
  const splitters = root.has("pre_tokenizer") ? flat(root.part("pre_tokenizer"), "pretokenizers") : [];
  const marking = splitters.findIndex(
    (part) => part.has("prepend_scheme") && part.get("prepend_scheme") === "first",
  );
  const known = marking > 0 ? ["Lowercase"] : keepBeginnings;
  const unknown = normalizers.find((part) => !known.includes(part.type));
  if (marking < 0 || unknown === undefined) return;
  throw splitters[marking]!.refuse(
    `prepend_scheme "first" is not supported together with the normalizer ${unknown.type}; "always" and "never" are`,
  );
}
