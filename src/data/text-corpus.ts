/** Written descriptions with captions and questions about them: what a language model reads in text alone. */
import { readFile } from "node:fs/promises";
import { z } from "zod";
import { UserError } from "../errors.js";
import { checkJson, parseJson } from "../json.js";

const recordSchema = z.object({
  description: z.string().min(1),
  captions: z.array(z.string().min(1)).min(1),
  questions: z.array(
    z.object({ question: z.string().min(1), answer: z.string().min(1), type: z.string().min(1) }),
  ),
  /** Sentences of one fact each. */
  statements: z.array(z.string().min(1)).default([]),
});

export type DescribedScene = z.infer<typeof recordSchema>;

/** Reads a JSON-lines file of described scenes. Throws a `UserError` naming the line that is wrong. */
export async function readTextCorpus(path: string): Promise<readonly DescribedScene[]> {
  const text = await readFile(path, "utf8").catch((error: Error) => {
    throw new UserError(`${path} cannot be read: ${error.message}`, { cause: error });
  });
  const lines = text.split("\n").filter((line) => line !== "");
  if (lines.length === 0) throw new UserError(`${path} is empty: a text corpus needs at least one line`);
  return lines.map((line, index) => {
    const where = `${path}, line ${index + 1}`;
    return checkJson(parseJson(line, where), recordSchema, where);
  });
}
