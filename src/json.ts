/**
 * JSON as Python's json module writes and reads it: NaN, Infinity and -Infinity are numbers, a byte-order mark is passed over, and of
 * equal keys the last counts. And one wording for what is wrong with a value that a schema was held against.
 */
import type { z } from "zod";
import { UserError } from "./errors.js";
import { listed, listedNames } from "./listed.js";
import { quoted } from "./quoted.js";

/** No file of a model or a data set nests deeper; what does would overflow the stack of those that walk it. */
const deepest = 256;

/** Strings are passed over, so that the three names are found as values alone. */
const pythonNumbers = /"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g;

/** Stands for NaN, which JSON cannot say; no text has such a character unescaped. */
const notANumber = "\u0000NaN";

/** Throws a `UserError` that begins with `where` and says where the text goes wrong. */
export function parseJson(text: string, where: string): unknown {
  const bare = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  if (isTooDeep(bare))
    throw new UserError(`${where}: nests more than ${deepest} lists or objects; at most these are read`);
  try {
    return JSON.parse(bare);
  } catch (cause) {
    if (!/NaN|Infinity/.test(bare)) throw notJson(where, cause);
    const spelled = bare.replace(pythonNumbers, (found) => {
      if (found.startsWith('"')) return found;
      return found === "NaN" ? '"\\u0000NaN"' : found === "Infinity" ? "1e999" : "-1e999";
    });
    try {
      return JSON.parse(spelled, (_key, value: unknown) => (value === notANumber ? NaN : value));
    } catch (error) {
      throw notJson(where, error);
    }
  }
}

/** The engine's message may quote the text; what it quotes is short, and cut all the same. */
function notJson(where: string, cause: unknown): UserError {
  const { message } = cause as Error;
  const told = message.length > 200 ? `${message.slice(0, 200)}...` : message;
  return new UserError(`${where}: not JSON (${told.replace(/\p{Cc}+/gu, " ")})`, { cause });
}

function isTooDeep(text: string): boolean {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x22) {
      i = endOfString(text, i);
    } else if (code === 0x7b || code === 0x5b) {
      if (++depth > deepest) return true;
    } else if (code === 0x7d || code === 0x5d) depth -= 1;
  }
  return false;
}

/** The place of the quote that closes the string opened at `start`. */
function endOfString(text: string, start: number): number {
  for (let i = text.indexOf('"', start + 1); i >= 0; i = text.indexOf('"', i + 1)) {
    let slashes = 0;
    while (text.charCodeAt(i - 1 - slashes) === 0x5c) slashes += 1;
    if (slashes % 2 === 0) return i;
  }
  return text.length;
}

/** How a problem at a key is worded, where the schema's own words do not say what to do. */
export type Remedies = (key: string, value: unknown) => string | undefined;

/**
 * All that a schema finds wrong with `json`, in one line: unknown keys by their names, others with what they are and what is
 * required. `remedies` may know better words.
 */
function problemsOf(error: z.ZodError, json: unknown, remedies: Remedies = () => undefined): string {
  const problems = error.issues.map((issue) => {
    const key = issue.path.join(".");
    if (issue.code === "unrecognized_keys") {
      const names = issue.keys.map((name) => [key, name].filter(Boolean).join("."));
      return `unknown ${listedNames(names)}`;
    }
    const value = issue.path.reduce<unknown>(
      (at, step) => (at as Record<PropertyKey, unknown> | null | undefined)?.[step],
      json,
    );
    const why = remedies(key, value) ?? issue.message;
    if (key === "") return why;
    return `${key} is ${value === undefined ? "missing" : quoted(value)}: ${why}`;
  });
  return listed(problems, "; ");
}

/** `json` as the schema reads it. Throws a `UserError` that begins with `where` and names every problem. */
export function checkJson<T extends z.ZodType>(
  json: unknown,
  schema: T,
  where: string,
  remedies?: Remedies,
): z.infer<T> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new UserError(`${where}: ${problemsOf(parsed.error, json, remedies)}`);
}
