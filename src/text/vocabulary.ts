/** The vocabulary of a tokenizer's model, checked. */
import { quoted } from "../quoted.js";
import { UserError } from "../errors.js";
import { checkedId, type Part } from "./parts.js";

/** Published vocabularies have at most 902 thousand. */
const mostTokens = 1_000_000;
/** In UTF-16 units. Published tokens have at most a few hundred. */
const longestToken = 1000;

/** The object `vocab`: id by token. No id is given twice. */
export function readVocabulary(part: Part): Map<string, number> {
  const where = part.at("vocab");
  const entries = Object.entries(part.object("vocab"));
  if (entries.length > mostTokens) throw tooMany(where, entries.length);
  const owners = new Map<number, string>();
  for (const [token, value] of entries) {
    const id = checkedId(value, token, where);
    const owner = owners.get(id);
    if (owner !== undefined) {
      throw new UserError(`${where}: ${quoted(owner)} and ${quoted(token)} both have the id ${id}`);
    }
    owners.set(id, checkedToken(token, where));
  }
  return new Map(entries as [string, number][]);
}

/** Throws `UserError` for a token that no text can hold, or that is too long to look for. */
export function checkedToken(token: string, where: string): string {
  if (/\p{Cs}/u.test(token)) throw new UserError(`${where}: the token ${quoted(token)} is half a character`);
  if (token.length <= longestToken) return token;
  throw new UserError(
    `${where}: a token of ${token.length} characters (${quoted(token.slice(0, 20))}); at most ${longestToken} are read`,
  );
}

/** The id of the token under `key`, which stands for what has no token. */
export function unknownId(
  part: Part,
  key: string,
  vocabulary: ReadonlyMap<string, number>,
): number | undefined {
  return part.has(key) ? vocabulary.get(part.string(key)) : undefined;
}

export function tooMany(where: string, count: number): UserError {
  return new UserError(`${where}: has ${count} tokens; at most ${mostTokens} are read`);
}

export function isTooMany(count: number): boolean {
  return count > mostTokens;
}

/** The error for a text that a tokenizer cannot write. */
export function noUnknownToken(where: string, piece: string): UserError {
  return new UserError(
    `${where}: has no token for ${quoted(piece.slice(0, 20))}, and none for what is unknown (unk_token)`,
  );
}

/** The ids of the tokens <0x00> to <0xFF> that stand for the bytes of `character`, if the vocabulary has them all. */
export function byteTokens(character: string, vocabulary: ReadonlyMap<string, number>): number[] | undefined {
  const ids = Array.from(new TextEncoder().encode(character), (byte) =>
    vocabulary.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
  );
  return ids.every((id) => id !== undefined) ? ids : undefined;
}
