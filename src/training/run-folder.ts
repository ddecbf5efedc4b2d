/**
 * The folder of a run: `config.json` (what was asked for), `log.jsonl` (a line per logged step), and
 * `checkpoint.safetensors` (weights, moments and the step, one file replaced whole), from which the run
 * continues after any interruption.
 */
import { mkdir, readdir, readFile, truncate, appendFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { openSafetensors, writeSafetensors } from "../checkpoints/safetensors.js";
import { writeFileAtomic } from "../files/atomic-write.js";
import { readJsonObject } from "../files/json-file.js";
import { UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";

export interface RunCheckpoint {
  /** Steps done. */
  readonly step: number;
  readonly tensors: ReadonlyMap<string, HostTensor>;
}

export type LogLine = Readonly<Record<string, number | string>>;

const checkpointName = "checkpoint.safetensors";
const logName = "log.jsonl";

export class RunFolder {
  private constructor(
    readonly path: string,
    /** What to continue from; absent in a new run. */
    readonly checkpoint: RunCheckpoint | undefined,
  ) {}

  /**
   * Opens a run. A new run needs a folder that is missing or empty; `resume` needs one that holds a run
   * with the same configuration (a killed run without a checkpoint yet starts again). Throws a `UserError`
   * otherwise, and leaves the folder as it was.
   */
  static async open(path: string, config: object, options: { readonly resume: boolean }): Promise<RunFolder> {
    const text = `${JSON.stringify(config, null, 2)}\n`;
    const entries = await readdir(path).catch((error: NodeJS.ErrnoException): string[] => {
      if (error.code === "ENOENT") return [];
      throw new UserError(`${path} cannot be read as a run folder: ${error.message}`, { cause: error });
    });
    const holdsRun = entries.includes("config.json");
    if (!options.resume) {
      if (entries.length > 0) {
        const what = holdsRun ? "holds another run" : "is not empty";
        throw new UserError(
          `${path} ${what}: name a new folder with --out, or continue that run with --resume`,
        );
      }
      await mkdir(path, { recursive: true });
      await writeFileAtomic(join(path, "config.json"), text);
      return new RunFolder(path, undefined);
    }
    if (!holdsRun) throw new UserError(`${path} holds no run to resume: start one without --resume`);
    const known = await readJsonObject(join(path, "config.json"));
    if (JSON.stringify(known) !== JSON.stringify(JSON.parse(text))) {
      const changed = changedKeys(known, JSON.parse(text) as Record<string, unknown>);
      throw new UserError(
        `${path} was started with another configuration (${changed.join(", ")} differ): resume with the old one, or start a new run`,
      );
    }
    const run = new RunFolder(path, await readCheckpoint(join(path, checkpointName)));
    await run.forgetLogAfter(run.checkpoint?.step ?? 0);
    return run;
  }

  async save(step: number, tensors: Readonly<Record<string, HostTensor>>): Promise<void> {
    await writeSafetensors(join(this.path, checkpointName), tensors, { step: String(step) });
  }

  async log(line: LogLine): Promise<void> {
    await appendFile(join(this.path, logName), `${JSON.stringify(line)}\n`);
  }

  /** Drops lines that a resumed run will write again, and a half-written last one. */
  private async forgetLogAfter(step: number): Promise<void> {
    const kept = (await readLog(this.path)).filter((line) => Number(line["step"]) <= step);
    const text = kept.map((line) => `${JSON.stringify(line)}\n`).join("");
    const file = join(this.path, logName);
    if (!(await isThere(file))) return;
    await writeFileAtomic(file, text);
    await truncate(file, Buffer.byteLength(text));
  }
}

/** Every complete line of a run's log. */
export async function readLog(run: string): Promise<readonly LogLine[]> {
  const text = await readFile(join(run, logName), "utf8").catch(() => "");
  return text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as LogLine);
}

/** The checkpoint of an earlier run, if its folder holds one. */
export const checkpointOf = (runFolder: string): Promise<RunCheckpoint | undefined> =>
  readCheckpoint(join(runFolder, checkpointName));

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

async function readCheckpoint(path: string): Promise<RunCheckpoint | undefined> {
  if (!(await isThere(path))) return undefined;
  const file = await openSafetensors(path);
  const step = Number(file.metadata["step"]);
  if (!Number.isInteger(step))
    throw new UserError(`${path} does not say which step it holds: it is not a checkpoint of a run`);
  return { step, tensors: await file.readAll() };
}

function changedKeys(a: Record<string, unknown>, b: Record<string, unknown>): string[] {
  const names = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...names].filter((name) => JSON.stringify(a[name]) !== JSON.stringify(b[name]));
}
