/**
 * The folder of a run: `config.json` (what was asked for), `data.json` (what the data were), `log.jsonl`, and the checkpoints from which the run
 * continues after any interruption. One process at a time works in it.
 */
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../errors.js";
import { codeOf, writeFileAtomic } from "../files/atomic-write.js";
import { readJsonObject } from "../files/json-file.js";
import { holdLockFile } from "../files/lock-file.js";
import type { HostTensor } from "../host-tensor.js";
import { listedNames } from "../listed.js";
import { quoted } from "../quoted.js";
import { readCheckpoint, writeCheckpoint, type RunCheckpoint } from "./checkpoint.js";
import { appendLog, cutLog, type LogLine } from "./run-log.js";

export interface RunFolderOptions {
  readonly resume: boolean;
  /** Short digests of the data, by name. */
  readonly data?: Readonly<Record<string, string>> | undefined;
  /** Brings the configuration of an earlier start into the form of this one's. */
  readonly normalise?: ((known: unknown) => unknown) | undefined;
  /** Is told what the user should know. */
  readonly log?: ((line: string) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Untouched for so long, another process's lock is taken over. Milliseconds. */
  readonly abandonedAfter?: number | undefined;
}

const lockName = ".blip2-run.lock";

export class RunFolder {
  private constructor(
    readonly path: string,
    /** What to continue from; absent in a new run. */
    readonly checkpoint: RunCheckpoint | undefined,
    private readonly lock: AsyncDisposable,
  ) {}

  /**
   * Opens a run. A new run needs a folder that is missing or empty; `resume` needs one that holds a run
   * with the same configuration and the same data (a killed run without a checkpoint yet starts again). Throws a `UserError`
   * otherwise, also while another process works there, and leaves the folder as it was.
   */
  static async open(path: string, config: object, options: RunFolderOptions): Promise<RunFolder> {
    const { resume, log } = options;
    await mustSuit(path, resume);
    await mkdir(path, { recursive: true }).catch((error: unknown) => {
      throw new UserError(`${path}: no folder can be made here (${codeOf(error)}); name another with --out`, {
        cause: error,
      });
    });
    const lock = await lockFolder(path, options);
    try {
      // Once more: until now another process may have begun here.
      await mustSuit(path, resume);
      if (!resume) {
        await writeFileAtomic(join(path, "config.json"), json(config));
        await writeFileAtomic(join(path, "data.json"), json(options.data ?? {}));
        return new RunFolder(path, undefined, lock);
      }
      await checkSame(path, config, options);
      const checkpoint = await readCheckpoint(path, log);
      if (checkpoint === undefined) log?.(`${path} holds no checkpoint: the run begins again at step 0`);
      await cutLog(path, checkpoint?.step ?? 0, log);
      return new RunFolder(path, checkpoint, lock);
    } catch (error) {
      await lock[Symbol.asyncDispose]();
      throw error;
    }
  }

  save(step: number, tensors: Readonly<Record<string, HostTensor>>): Promise<void> {
    return writeCheckpoint(this.path, step, tensors);
  }

  log(line: LogLine): Promise<void> {
    return appendLog(this.path, line);
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.lock[Symbol.asyncDispose]();
  }
}

/** Throws a `UserError` unless the folder is fit for a new run, or holds one to resume. */
async function mustSuit(path: string, resume: boolean): Promise<void> {
  const entries = await readdir(path).catch((error: unknown): string[] => {
    if (codeOf(error) === "ENOENT") return [];
    throw new UserError(
      `${path} cannot be read as a run folder (${codeOf(error)}); name another with --out`,
      {
        cause: error,
      },
    );
  });
  const holdsRun = entries.includes("config.json");
  if (!resume && entries.some((name) => !name.startsWith(lockName))) {
    const what = holdsRun ? "holds another run" : "is not empty";
    throw new UserError(`${path} ${what}: name a new folder with --out, or continue that run with --resume`);
  }
  if (resume && !holdsRun) throw new UserError(`${path} holds no run to resume: start one without --resume`);
}

function lockFolder(
  path: string,
  { signal, abandonedAfter, log }: RunFolderOptions,
): Promise<AsyncDisposable> {
  const file = join(path, lockName);
  return holdLockFile(file, {
    signal,
    ...(abandonedAfter !== undefined && { abandonedAfter }),
    onWait: () => log?.(`${file} is there: it is watched whether the process that made it still runs`),
    onHeld: ({ pid, host }) => {
      const who = pid === undefined ? "" : ` (${pid} on ${quoted(host)})`;
      return new UserError(
        `${path}: another process trains in this folder${who}; wait for it, or name a new folder with --out; if there is no such process, delete ${file}`,
      );
    },
  }).catch((error: unknown) => {
    const code = codeOf(error);
    if (code === undefined) throw error;
    throw new UserError(
      `${file}: cannot be written (${code}); make that possible, or name another folder with --out`,
      {
        cause: error,
      },
    );
  });
}

const json = (value: object): string => `${JSON.stringify(value, null, 2)}\n`;

async function checkSame(
  path: string,
  config: object,
  { data, normalise = (known) => known }: RunFolderOptions,
): Promise<void> {
  const wanted = JSON.parse(JSON.stringify(config)) as Record<string, unknown>;
  const known = normalise(await readJsonObject(join(path, "config.json"))) as Record<string, unknown>;
  const changed = changedKeys(known, wanted);
  if (changed.length > 0) {
    throw new UserError(
      `${path} was started with another configuration (${listedNames(changed)} differ): resume with the old one, or start a new run`,
    );
  }
  if (data === undefined) return;
  const entries = await readdir(path);
  // Runs of earlier versions did not write down what their data were.
  const before = entries.includes("data.json") ? await readJsonObject(join(path, "data.json")) : data;
  // Nor did all of them write down the same.
  const others = changedKeys(before, data).filter((name) => Object.hasOwn(before, name));
  if (others.length > 0) {
    throw new UserError(
      `${path} was started with other data (${listedNames(others)} changed since): bring the old ones back, or start a new run, ` +
        'which may begin with the weights of this one ("start")',
    );
  }
}

function changedKeys(a: Readonly<Record<string, unknown>>, b: Readonly<Record<string, unknown>>): string[] {
  const names = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...names].filter((name) => JSON.stringify(a[name]) !== JSON.stringify(b[name]));
}
