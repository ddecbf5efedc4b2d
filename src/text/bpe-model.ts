/**
 * Byte-pair encoding (Sennrich et al. 2016): a piece starts as its characters, and of all neighbours that may be joined those whose rule stands
 * first are, from the left, until none may.
 */
import { quoted } from "../quoted.js";
import { UserError } from "../errors.js";
import type { Part } from "./parts.js";
import type { TokenModel } from "./token-model.js";
import { byteTokens, noUnknownToken, readVocabulary, unknownId } from "./vocabulary.js";

/** Of neighbours' ids one key. Ids are below this. */
const idRange = 2 ** 24;
/** Of a rule's rank and a place one number to order by. */
const placeRange = 2 ** 27;

const mostCached = 10_000;
const longestCached = 256;

export class BpeModel implements TokenModel {
  readonly vocabulary: ReadonlyMap<string, number>;
  /** Rank by pair of ids. */
  private readonly ranks = new Map<number, number>();
  /** What a rule makes, by rank. */
  private readonly merged: number[] = [];
  private readonly unknown: number | undefined;
  private readonly prefix: string;
  private readonly suffix: string;
  private readonly fuse: boolean;
  private readonly bytes: boolean;
  private readonly wholeFirst: boolean;
  private readonly where: string;
  private readonly cache = new Map<string, readonly number[]>();

  constructor(part: Part) {
    this.where = part.where;
    this.vocabulary = readVocabulary(part);
    this.unknown = unknownId(part, "unk_token", this.vocabulary);
    this.needsUnknown = part.has("unk_token") && this.unknown === undefined;
    const affix = (key: string): string => (part.has(key) ? part.string(key) : "");
    this.prefix = affix("continuing_subword_prefix");
    this.suffix = affix("end_of_word_suffix");
    this.fuse = part.boolean("fuse_unk", false);
    this.bytes = part.boolean("byte_fallback", false);
    this.wholeFirst = part.boolean("ignore_merges", false);
    if (part.has("dropout") && part.get("dropout") !== 0) {
      throw part.refuse(
        `dropout ${quoted(part.get("dropout"))} makes ids a matter of chance; null is required`,
      );
    }
    part.list("merges").forEach((merge, rank) => this.addMerge(part, merge, rank));
  }

  /** The file names a token for what is unknown and lacks it. */
  private readonly needsUnknown: boolean;

  private addMerge(part: Part, merge: unknown, rank: number): void {
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    const id = (token: unknown): number | undefined =>
      typeof token === "string" ? this.vocabulary.get(token) : undefined;
    const [left, right] = Array.isArray(pair) && pair.length === 2 ? (pair as unknown[]) : [];
    const [a, b] = [id(left), id(right)];
    const both =
      a === undefined || b === undefined
        ? undefined
        : id(`${left as string}${(right as string).slice(this.prefix.length)}`);
    if (a === undefined || b === undefined || both === undefined) {
      throw new UserError(
        `${part.at(`merges.${rank}`)}: two tokens of the vocabulary that make a third are required, got ${quoted(merge)}`,
      );
    }
    this.ranks.set(a * idRange + b, rank);
    this.merged.push(both);
  }

  encode(piece: string, ids: number[]): void {
    const whole = this.wholeFirst ? this.vocabulary.get(piece) : undefined;
    if (whole !== undefined) {
      ids.push(whole);
      return;
    }
    let found = this.cache.get(piece);
    if (found === undefined) {
      found = this.join(this.characters(piece));
      if (piece.length < longestCached) {
        if (this.cache.size >= mostCached) this.cache.clear();
        this.cache.set(piece, found);
      }
    }
    for (const id of found) ids.push(id);
  }

  /** What a piece starts as. Without a token for what is unknown, that is left out. */
  private characters(piece: string): number[] {
    const ids: number[] = [];
    let unknowns = 0;
    const settle = (): void => {
      for (; unknowns > 0; unknowns--) ids.push(this.unknown!);
    };
    let place = 0;
    for (const character of piece) {
      const start = place === 0 ? "" : this.prefix;
      place += character.length;
      const token = `${start}${character}${place === piece.length ? this.suffix : ""}`;
      const id = this.vocabulary.get(token);
      const known =
        id === undefined && this.bytes
          ? byteTokens(token, this.vocabulary)
          : id === undefined
            ? undefined
            : [id];
      if (known !== undefined) {
        settle();
        ids.push(...known);
      } else if (this.unknown !== undefined) {
        unknowns = this.fuse ? 1 : unknowns + 1;
      } else if (this.needsUnknown) {
        throw noUnknownToken(this.where, character);
      }
    }
    settle();
    return ids;
  }

  private join(ids: number[]): number[] {
    const end = ids.length;
    // Neighbours by place; a place that was joined to the one before it has the id -1.
    const next = Int32Array.from({ length: end }, (_, place) => place + 1);
    const previous = Int32Array.from({ length: end }, (_, place) => place - 1);
    const waiting = new Queue();
    const offer = (place: number): void => {
      const other = next[place]!;
      const rank = other < end ? this.ranks.get(ids[place]! * idRange + ids[other]!) : undefined;
      if (rank !== undefined) waiting.push(rank * placeRange + place);
    };
    for (let place = 0; place < end - 1; place++) offer(place);
    for (let first = waiting.pop(); first !== undefined; first = waiting.pop()) {
      const place = first % placeRange;
      const made = this.merged[Math.floor(first / placeRange)]!;
      const other = next[place]!;
      if (ids[place] === -1 || other >= end) continue;
      const rank = this.ranks.get(ids[place]! * idRange + ids[other]!);
      // Since it was offered, one of the two may have been joined to another.
      if (rank === undefined || this.merged[rank] !== made) continue;
      ids[place] = made;
      ids[other] = -1;
      const after = next[other]!;
      next[place] = after;
      if (after < end) previous[after] = place;
      if (previous[place]! >= 0) offer(previous[place]!);
      offer(place);
    }
    return ids.filter((id) => id !== -1);
  }
}

/** Numbers, the least of which comes out first. */
class Queue {
  private readonly heap: number[] = [];

  push(value: number): void {
    const { heap } = this;
    let place = heap.length;
    heap.push(value);
    while (place > 0) {
      const parent = (place - 1) >> 1;
      if (heap[parent]! <= value) break;
      heap[place] = heap[parent]!;
      place = parent;
    }
    heap[place] = value;
  }

  pop(): number | undefined {
    const { heap } = this;
    const least = heap[0];
    const value = heap.pop();
    if (value === undefined || heap.length === 0) return least;
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= value) break;
      heap[place] = heap[child]!;
      place = child;
    }
    heap[place] = value;
    return least;
  }
}
