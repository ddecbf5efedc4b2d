/** The log of a run, `log.jsonl`: a line per logged step or evaluation. */
import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import { codeOf, writeFileAtomic } from "../files/atomic-write.js";
import { UserError } from "../errors.js";

export type LogLine = Readonly<Record<string, number | string>>;

const logName = "log.jsonl";
const garbledName = "log.garbled.txt";

/** Throws a `UserError` that says what to do if the line cannot be written. */
export async function appendLog(run: string, line: LogLine): Promise<void> {
  await appendTo(join(run, logName), `${JSON.stringify(line)}\n`);
}

async function appendTo(path: string, text: string): Promise<void> {
  await appendFile(path, text).catch((error: unknown) => {
    const code = codeOf(error);
    const isFull = code === "ENOSPC" || code === "EDQUOT";
    const why = isFull ? "the disk is full" : `it cannot be written (${code})`;
    throw new UserError(
      `${path}: ${why}; checkpoints are as they were: ${isFull ? "make room" : "mend that"}, and continue with --resume`,
      { cause: error },
    );
  });
}

/** Every whole line of a run's log; others are passed over. */
export async function readLog(run: string): Promise<readonly LogLine[]> {
  return (await readLines(run))?.lines ?? [];
}

/** Drops lines that a resumed run will write again. What is no line is set aside, and said. */
export async function cutLog(run: string, step: number, onNotice?: (notice: string) => void): Promise<void> {
  const found = await readLines(run);
  if (found === undefined) return;
  const { lines, garbled } = found;
  if (garbled.length > 0) {
    // Behind what earlier resumes set aside.
    await appendTo(join(run, garbledName), garbled.map((line) => `${line}\n`).join(""));
    onNotice?.(
      `${join(run, logName)}: ${garbled.length} ${garbled.length === 1 ? "line is" : "lines are"} garbled and set aside in ${garbledName}`,
    );
  }
  const kept = lines.filter((line) => Number(line["step"]) <= step);
  await writeFileAtomic(join(run, logName), kept.map((line) => `${JSON.stringify(line)}\n`).join(""));
}

async function readLines(
  run: string,
): Promise<{ readonly lines: readonly LogLine[]; readonly garbled: readonly string[] } | undefined> {
  const text = await readFile(join(run, logName), "utf8").catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return undefined;
    throw new UserError(`${join(run, logName)}: cannot be read (${codeOf(error)})`, { cause: error });
  });
  if (text === undefined) return undefined;
  const lines: LogLine[] = [];
  const garbled: string[] = [];
  // What stands behind the last line break was being written when the process ended.
  for (const line of text.slice(0, text.lastIndexOf("\n") + 1).split("\n")) {
    if (line === "") continue;
    const parsed = parsedLine(line);
    if (parsed === undefined) garbled.push(line);
    else lines.push(parsed);
  }
  return { lines, garbled };
}

function parsedLine(line: string): LogLine | undefined {
  try {
    const value: unknown = JSON.parse(line);
    const isLine =
      typeof value === "object" && value !== null && Number.isInteger((value as LogLine)["step"]);
    return isLine ? (value as LogLine) : undefined;
  } catch {
    return undefined;
  }
}
