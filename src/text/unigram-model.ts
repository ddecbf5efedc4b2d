/** Unigram (Kudo 2018; sentencepiece, T5): of all ways to write a piece as tokens the one whose scores have the largest sum. */
import { quoted } from "../quoted.js";
import { UserError } from "../errors.js";
import type { Part } from "./parts.js";
import type { TokenModel } from "./token-model.js";
import { PrefixTree } from "./prefix-tree.js";
import { widthAt } from "./unicode.js";
import { byteTokens, checkedToken, isTooMany, noUnknownToken, tooMany } from "./vocabulary.js";

/** So much less than the worst token counts a character that is none. */
const unknownPenalty = 10;

export class UnigramModel implements TokenModel {
  readonly vocabulary: ReadonlyMap<string, number>;
  private readonly tokens = new PrefixTree();
  private readonly scores: Float64Array;
  private readonly unknown: number | undefined;
  private readonly unknownScore: number;
  private readonly bytes: boolean;
  private readonly where: string;

  constructor(part: Part) {
    this.where = part.where;
    const list = part.list("vocab");
    if (isTooMany(list.length)) throw tooMany(part.at("vocab"), list.length);
    this.scores = new Float64Array(list.length);
    const vocabulary = new Map<string, number>();
    list.forEach((entry, id) => {
      const [token, score] = Array.isArray(entry) ? (entry as unknown[]) : [];
      const where = part.at(`vocab.${id}`);
      if (typeof token !== "string" || typeof score !== "number" || !Number.isFinite(score)) {
        throw new UserError(`${where}: a token and its score are required, got ${quoted(entry)}`);
      }
      vocabulary.set(checkedToken(token, where), id);
      if (token !== "") this.tokens.add(token, id);
      this.scores[id] = score;
    });
    this.vocabulary = vocabulary;
    this.unknown = part.has("unk_id") ? part.id("unk_id") : undefined;
    if (this.unknown !== undefined && this.unknown >= list.length) {
      throw part.refuse(`unk_id must be one of its ${list.length} tokens, got ${this.unknown}`);
    }
    this.unknownScore =
      this.scores.reduce((least, score) => Math.min(least, score), Infinity) - unknownPenalty;
    this.bytes = part.boolean("byte_fallback", false);
  }

  encode(piece: string, ids: number[]): void {
    const ends = this.bestPath(piece);
    let start = 0;
    for (const [end, id] of ends) {
      const [known, text] = [id !== this.unknown, piece.slice(start, end)];
      start = end;
      // Characters without a token next to each other may make one.
      const token = known ? id : this.vocabulary.get(text);
      const bytes = token === undefined && this.bytes ? byteTokens(text, this.vocabulary) : undefined;
      if (bytes === undefined) ids.push(token ?? this.unknown!);
      else for (const byte of bytes) ids.push(byte);
    }
  }

  /** Tokens as ends and ids, in order; neighbours that are unknown are one. */
  private bestPath(piece: string): [number, number][] {
    // By place: the best sum of the tokens up to it, and the last of them.
    const sums = new Float64Array(piece.length + 1);
    const ids = new Int32Array(piece.length + 1).fill(-1);
    const starts = new Int32Array(piece.length + 1).fill(-1);
    const offer = (start: number, end: number, id: number, score: number): void => {
      const sum = score + sums[start]!;
      if (starts[end] !== -1 && sum <= sums[end]!) return;
      sums[end] = sum;
      ids[end] = id;
      starts[end] = start;
    };
    for (let start = 0; start < piece.length; start += widthAt(piece, start)) {
      const single = start + widthAt(piece, start);
      let hasSingle = false;
      let node = 0;
      for (let end = start + 1; end <= piece.length; end++) {
        node = this.tokens.step(node, piece.charCodeAt(end - 1));
        if (node < 0) break;
        const id = this.tokens.valueAt(node);
        if (id === undefined) continue;
        offer(start, end, id, this.scores[id]!);
        hasSingle ||= end === single;
      }
      if (hasSingle) continue;
      if (this.unknown === undefined) throw noUnknownToken(this.where, piece.slice(start, single));
      offer(start, single, this.unknown, this.unknownScore);
    }
    const path: [number, number][] = [];
    for (let end = piece.length; end > 0; end = starts[end]!) {
      const after = path.at(-1);
      // The unknown one that follows grows to the left: its end stays.
      if (ids[end] === this.unknown && after?.[1] === this.unknown) continue;
      path.push([end, ids[end]!]);
    }
    return path.reverse();
  }
}
