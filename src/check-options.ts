/** Options of the library's calls: checked by name and value, every mistake named in one error. */
import type { z } from "zod";
import { UserError } from "./errors.js";
import { quoted, shortened } from "./quoted.js";

/**
 * Throws one `UserError` that names every unknown option and every value that does not fit the schema of `call`.
 * `explain` may word a problem with a known option in its own way.
 */
export function checkAgainst(
  schema: z.ZodObject,
  call: string,
  options: unknown,
  explain: (key: string, value: unknown) => string | undefined = () => undefined,
): void {
  const parsed = schema.safeParse(options);
  if (parsed.success) return;
  const known = Object.keys(schema.shape);
  const problems = parsed.error.issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => `unknown option ${shortened(key)}${suggestion(key, known)}`);
    }
    const key = issue.path.join(".");
    if (key === "") return [`an object with ${known.join(", ")} is required`];
    const value = (options as Record<string, unknown>)[String(issue.path[0])];
    if (value === undefined) return [`${key} is required`];
    return [explain(key, value) ?? `${key} is ${show(value)}: ${issue.message}`];
  });
  throw new UserError(`${call}: ${problems.join("; ")}`);
}

/** A value as an error shows it. */
export function show(value: unknown): string {
  const isPlain = value === null || ["string", "number", "boolean"].includes(typeof value);
  return isPlain ? (Number.isNaN(value) ? "NaN" : quoted(value)) : `of type ${typeof value}`;
}

/** Names as Python writes them, and slips of one or two letters, are recognised. */
function suggestion(word: string, known: readonly string[]): string {
  const plain = (name: string): string => name.replaceAll("_", "").toLowerCase();
  const [nearest] = known
    .map((name) => ({ name, distance: editDistance(plain(word), plain(name)) }))
    .filter(({ distance, name }) => distance <= Math.min(2, name.length / 3))
    .sort((a, b) => a.distance - b.distance);
  return nearest === undefined ? `; known are ${known.join(", ")}` : `; did you mean ${nearest.name}?`;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++) {
      next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (letter === b[j] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
