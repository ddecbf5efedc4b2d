/** WordPiece (BERT): of a word the longest token that it begins with, then the longest continuation, and so on. */
import type { Part } from "./parts.js";
import type { TokenModel } from "./token-model.js";
import { PrefixTree } from "./prefix-tree.js";
import { characterCount } from "./unicode.js";
import { noUnknownToken, readVocabulary, unknownId } from "./vocabulary.js";

export class WordPieceModel implements TokenModel {
  readonly vocabulary: ReadonlyMap<string, number>;
  private readonly tokens = new PrefixTree();
  /** Where the continuations are in the tree. */
  private readonly continuations: number;
  private readonly unknown: number | undefined;
  private readonly longestWord: number;
  private readonly where: string;

  constructor(part: Part) {
    this.where = part.where;
    this.vocabulary = readVocabulary(part);
    for (const [token, id] of this.vocabulary) if (token !== "") this.tokens.add(token, id);
    this.continuations = this.tokens.after(part.string("continuing_subword_prefix", "##"));
    this.unknown = unknownId(part, "unk_token", this.vocabulary);
    this.longestWord = part.count("max_input_chars_per_word", 100);
  }

  /** A word with a part that is no token is unknown as a whole, as is one that is too long. */
  encode(piece: string, ids: number[]): void {
    const before = ids.length;
    let place = piece.length > this.longestWord && characterCount(piece) > this.longestWord ? -1 : 0;
    while (place >= 0 && place < piece.length) {
      const from = place === 0 ? 0 : this.continuations;
      const found = from < 0 ? undefined : this.tokens.longest(piece, place, from);
      if (found !== undefined) ids.push(found.value);
      place = found?.end ?? -1;
    }
    if (place >= 0) return;
    if (this.unknown === undefined) throw noUnknownToken(this.where, piece);
    ids.length = before;
    ids.push(this.unknown);
  }
}
