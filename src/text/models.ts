/** The `model` of a tokenizer.json: pieces of text become ids. */
import { BpeModel } from "./bpe-model.js";
import type { Part } from "./parts.js";
import type { TokenModel } from "./token-model.js";
import { UnigramModel } from "./unigram-model.js";
import { WordPieceModel } from "./word-piece-model.js";

/** Throws `UserError` for what is none, or one of a kind that is not known here. */
export function readModel(part: Part): TokenModel {
  // Older files do not name the type.
  const type = part.has("type") ? part.type : part.has("merges") ? "BPE" : "WordPiece";
  if (type === "BPE") return new BpeModel(part);
  if (type === "WordPiece") return new WordPieceModel(part);
  if (type === "Unigram") return new UnigramModel(part);
  throw part.unknownType("BPE, WordPiece and Unigram");
}
