/** Lines of JSON that experiments leave: read, added to, and published. */
import { appendFile, mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";
import { writeFileAtomic } from "../../src/files/atomic-write.js";
import { UserError } from "../../src/errors.js";

const numbers = z.record(z.string(), z.number());

const resultSchema = z.strictObject({
  experiment: z.string(),
  arm: z.string(),
  seed: z.number(),
  /** Steps of the measured training; 0 where nothing was trained. */
  step: z.number(),
  measures: numbers,
  /** What training up to this step took, all stages of the chain; without training, what measuring took. */
  seconds: z.number(),
  commit: z.string(),
  /** When it was measured. */
  date: z.string(),
  /** What was run: the configuration of each stage, or what an evaluation was told. */
  config: z.record(z.string(), z.unknown()),
});

/** What was measured of one arm with one seed at one step. */
export type Result = z.infer<typeof resultSchema>;

const trainingSchema = z.strictObject({
  arm: z.string(),
  seed: z.number(),
  step: z.number(),
  values: numbers,
});

/** A line of a training's log, a mean over some steps. */
export type TrainingLine = z.infer<typeof trainingSchema>;

async function readLines<T>(path: string, schema: z.ZodType<T>): Promise<T[]> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw new UserError(`${path} cannot be read: ${error.message}`, { cause: error });
  });
  // A process that was killed may have left half a line at the end.
  const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
  return lines.flatMap((line, i) => {
    if (line === "") return [];
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch (cause) {
      throw new UserError(`${path}, line ${i + 1}: not JSON; remove the line`, { cause });
    }
    const parsed = schema.safeParse(json);
    if (parsed.success) return [parsed.data];
    const { path: key, message } = parsed.error.issues[0]!;
    throw new UserError(`${path}, line ${i + 1}: ${key.join(".")}: ${message}; remove the line`);
  });
}

export const readResults = (path: string): Promise<Result[]> => readLines(path, resultSchema);
export const readTraining = (path: string): Promise<TrainingLine[]> => readLines(path, trainingSchema);

export async function appendResult(path: string, result: Result): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const before = await readFile(path, "utf8").catch(() => "");
  const cut = before.length > 0 && !before.endsWith("\n");
  if (cut) await writeFileAtomic(path, before.slice(0, before.lastIndexOf("\n") + 1));
  await appendFile(path, `${JSON.stringify(result)}\n`);
}

/** Adds lines to a published file: a line replaces what stands there under the same key; all are in order. */
export async function publish<T extends Result | TrainingLine>(
  path: string,
  old: readonly T[],
  added: readonly T[],
): Promise<void> {
  if (added.length === 0) return;
  const order = (line: T): string =>
    [line.arm, String(line.seed).padStart(6, "0"), String(line.step).padStart(9, "0")].join(" ");
  // A piece is published whole: what an earlier run of other lengths left of it goes.
  const replaced = new Set(added.map(({ arm, seed }) => `${arm} ${seed}`));
  const kept = old.filter(({ arm, seed }) => !replaced.has(`${arm} ${seed}`));
  const lines = [...new Map([...kept, ...added].map((line) => [order(line), line])).entries()]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([, line]) => `${JSON.stringify(line)}\n`);
  await mkdir(dirname(path), { recursive: true });
  await writeFileAtomic(path, lines.join(""));
}
