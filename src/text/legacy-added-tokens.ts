/** Special and added tokens of a tokenizer in the older file sets, as Python's transformers 5 gathers them. */
import { checkedId, isObject, type JsonObject } from "./parts.js";

/** A token that is cut out of a text before all else, as tokenizer.json lists it. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
  readonly special: boolean;
}

/** In the order in which tokens without an id get theirs. */
const roles = [
  "bos_token",
  "eos_token",
  "unk_token",
  "sep_token",
  "pad_token",
  "cls_token",
  "mask_token",
] as const;
export type Role = (typeof roles)[number];

/** The small files beside the vocabulary; those that are absent are empty. */
export interface LegacyConfig {
  /** tokenizer_config.json */
  readonly config: JsonObject;
  /** special_tokens_map.json */
  readonly specialTokensMap: JsonObject;
  /** added_tokens.json: id by content. */
  readonly addedTokens: JsonObject;
}

/** Contents by role: from tokenizer_config.json, else special_tokens_map.json, else what the tokenizer's kind has. */
export function tokensByRole(
  { config, specialTokensMap }: LegacyConfig,
  defaults: Partial<Record<Role, string>>,
): Partial<Record<Role, string>> {
  const found: Partial<Record<Role, string>> = {};
  for (const role of roles) {
    // null takes the kind's token away.
    const value = config[role] === undefined ? (specialTokensMap[role] ?? defaults[role]) : config[role];
    const content = contentOf(value);
    if (content !== undefined) found[role] = content;
  }
  return found;
}

/**
 * The added tokens of a vocabulary (id by content): those that tokenizer_config.json or else added_tokens.json lists, those with a
 * role, and the further special ones. What the vocabulary lacks gets the next free id, in this order.
 */
export function addedTokens(
  files: LegacyConfig,
  vocabulary: ReadonlyMap<string, number>,
  byRole: Partial<Record<Role, string>>,
  first: readonly { readonly content: string; readonly special: boolean }[] = [],
): AddedToken[] {
  const { config, specialTokensMap } = files;
  const tokens = new Map<string, AddedToken>();
  let next = 0;
  for (const id of vocabulary.values()) next = Math.max(next, id + 1);
  const add = (value: unknown, special: boolean, id?: number): void => {
    const content = contentOf(value);
    if (content === undefined || content === "" || tokens.has(content)) return;
    const given = (isObject(value) ? value : {}) as Partial<AddedToken>;
    const isSpecial = special || given.special === true;
    const known = vocabulary.get(content) ?? id ?? next;
    next = Math.max(next, known + 1);
    tokens.set(content, {
      id: known,
      content,
      single_word: given.single_word === true,
      lstrip: given.lstrip === true,
      rstrip: given.rstrip === true,
      normalized: given.normalized ?? !isSpecial,
      special: isSpecial,
    });
  };
  const special = new Set<string>([
    ...Object.values(byRole),
    ...(furtherTokens(files) ?? []).filter((token) => typeof token === "string"),
  ]);
  for (const { content, special: isSpecial } of first) {
    add({ content, special: isSpecial, normalized: false }, isSpecial);
  }
  const listed = isObject(config["added_tokens_decoder"]) ? config["added_tokens_decoder"] : undefined;
  const byId: [number, unknown][] =
    listed === undefined
      ? Object.entries(files.addedTokens).map(([content, id]) => [
          checkedId(id, content, "added_tokens.json"),
          content,
        ])
      : Object.entries(listed).map(([id, token]) => [
          checkedId(Number(id), contentOf(token) ?? "", "tokenizer_config.json: added_tokens_decoder"),
          token,
        ]);
  for (const [id, token] of byId.sort(([a], [b]) => a - b))
    add(token, special.has(contentOf(token) ?? ""), id);
  for (const role of roles) {
    if (byRole[role] === undefined) continue;
    const flags = [config[role], specialTokensMap[role]].find(
      (value) => typeof value === "object" && value !== null,
    );
    add(flags ?? byRole[role], true);
  }
  for (const token of furtherTokens(files) ?? []) add(token, typeof token === "string");
  return [...tokens.values()].sort((a, b) => a.id - b.id);
}

/** The list of special tokens without a role, if there is one. A token that stands there as an object says itself whether it is special. */
export function furtherTokens({ config, specialTokensMap }: LegacyConfig): unknown[] | undefined {
  for (const key of ["additional_special_tokens", "extra_special_tokens"]) {
    for (const source of [config, specialTokensMap]) if (Array.isArray(source[key])) return source[key];
  }
  return undefined;
}

/** Older files hold an object with the token's flags in place of its content. */
export function contentOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}
