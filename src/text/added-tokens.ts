/** Tokens that are cut out of a text before all else, such as `</s>` and `<image>`. */
import { quoted } from "../quoted.js";
import { UserError } from "../errors.js";
import { contentOf, type AddedToken } from "./legacy-added-tokens.js";
import { firstOther, lastOther, type Normalize } from "./normalizers.js";
import { checkedId, isObject, type JsonObject, type Part } from "./parts.js";
import { PrefixTree } from "./prefix-tree.js";
import { word } from "./unicode-classes.js";
import { checkedToken } from "./vocabulary.js";

const mostTokens = 100_000;

/**
 * The list `added_tokens`, and what tokenizer_config.json adds to it or says otherwise of it, as Python's transformers does. A token of
 * the vocabulary has the vocabulary's id.
 */
export function readAddedTokens(
  part: Part,
  vocabulary: ReadonlyMap<string, number>,
  config: JsonObject,
): AddedToken[] {
  const where = part.at("added_tokens");
  if (part.list("added_tokens", []).length > mostTokens) {
    throw part.refuse(`has ${part.list("added_tokens").length} added tokens; at most ${mostTokens} are read`);
  }
  const owners = new Map(Array.from(vocabulary, ([token, id]) => [id, token]));
  const tokens = new Map<string, AddedToken>();
  let next = 0;
  for (const id of owners.keys()) next = Math.max(next, id + 1);
  const add = (content: string, flags: Omit<AddedToken, "id" | "content">, listed?: number): void => {
    if (content === "") return;
    const id = vocabulary.get(checkedToken(content, where)) ?? tokens.get(content)?.id ?? listed ?? next;
    const owner = owners.get(id) ?? content;
    if (owner !== content) {
      throw new UserError(`${where}: ${quoted(content)} has the id ${id}, which is that of ${quoted(owner)}`);
    }
    owners.set(id, content);
    next = Math.max(next, id + 1);
    tokens.set(content, { id, content, ...flags });
  };
  if (part.has("added_tokens")) {
    for (const token of part.parts("added_tokens")) {
      const special = token.boolean("special", false);
      const flags = {
        single_word: token.boolean("single_word", false),
        lstrip: token.boolean("lstrip", false),
        rstrip: token.boolean("rstrip", false),
        normalized: token.boolean("normalized", !special),
        special,
      };
      add(token.string("content"), flags, token.id("id"));
    }
  }
  const ofConfig = (value: unknown, special: boolean, id?: number): void => {
    const content = contentOf(value);
    if (content === undefined) return;
    const given = (isObject(value) ? value : {}) as Partial<AddedToken>;
    const isSpecial = special || given.special === true;
    const flags = {
      single_word: given.single_word === true,
      lstrip: given.lstrip === true,
      rstrip: given.rstrip === true,
      normalized: given.normalized ?? !isSpecial,
      special: isSpecial,
    };
    add(content, flags, id);
  };
  for (const [id, token] of Object.entries(
    isObject(config["added_tokens_decoder"]) ? config["added_tokens_decoder"] : {},
  )) {
    ofConfig(
      token,
      false,
      checkedId(Number(id), String(contentOf(token)), "tokenizer_config.json: added_tokens_decoder"),
    );
  }
  const more = [config["additional_special_tokens"], config["extra_special_tokens"]].find(Array.isArray) as
    unknown[] | undefined;
  for (const role of ["bos", "eos", "unk", "sep", "pad", "cls", "mask"]) {
    const value = config[`${role}_token`];
    if (!tokens.has(contentOf(value) ?? "")) ofConfig(value, true);
  }
  for (const value of more ?? []) {
    if (!tokens.has(contentOf(value) ?? "")) ofConfig(value, typeof value === "string");
  }
  return [...tokens.values()];
}

/** A part of a text: an added token, or what stands between two. */
export type Section = { readonly id: number } | { readonly text: string; readonly first: boolean };

const wordBefore = new RegExp(`[${word}]$`, "u");
const wordBehind = new RegExp(`^[${word}]`, "u");

/** Finds `tokens` in texts: from the left, the longest first. With `normalize`, the normalised tokens. */
export function cutter(
  tokens: readonly AddedToken[],
  normalize: Normalize = (text) => text,
): (text: string) => Section[] {
  const tree = new PrefixTree();
  // The first of equal ones counts.
  [...tokens].reverse().forEach((token, i) => {
    const content = normalize(token.content);
    if (content !== "") tree.add(content, tokens.length - 1 - i);
  });
  return (text) => {
    const sections: Section[] = [];
    // Up to here the text is done.
    let done = 0;
    let place = 0;
    while (place < text.length) {
      const found = tree.longest(text, place);
      if (found === undefined) {
        place++;
        continue;
      }
      let [start, end] = [place, found.end];
      place = found.end;
      const token = tokens[found.value]!;
      if (
        token.single_word &&
        (wordBefore.test(text.slice(Math.max(0, start - 2), start)) ||
          wordBehind.test(text.slice(end, end + 2)))
      )
        continue;
      if (token.lstrip) start = Math.max(done, done + lastOther(text.slice(done, start)));
      if (token.rstrip) end += firstOther(text.slice(end));
      if (done < start) sections.push({ text: text.slice(done, start), first: done === 0 });
      sections.push({ id: token.id });
      done = end;
    }
    if (done < text.length) sections.push({ text: text.slice(done), first: done === 0 });
    return sections;
  };
}
