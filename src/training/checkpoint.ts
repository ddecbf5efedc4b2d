/**
 * Checkpoints of a run: weights, moments and the step in one file with a digest, and the one before, so that neither a kill nor a damaged
 * file costs more than the steps since.
 */
import { createHash } from "node:crypto";
import { rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { openSafetensors, writeSafetensors } from "../checkpoints/safetensors.js";
import { UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";

export interface RunCheckpoint {
  /** Steps done. */
  readonly step: number;
  readonly tensors: ReadonlyMap<string, HostTensor>;
}

const currentName = "checkpoint.safetensors";
const newName = "checkpoint.new.safetensors";
const previousName = "checkpoint.previous.safetensors";

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** Writes the next checkpoint; the last one is kept as the previous. */
export async function writeCheckpoint(
  run: string,
  step: number,
  tensors: Readonly<Record<string, HostTensor>>,
): Promise<void> {
  const metadata = { step: String(step), sha256: digestOf(new Map(Object.entries(tensors))) };
  const current = join(run, currentName);
  const next = join(run, newName);
  await writeSafetensors(next, tensors, metadata);
  // Whenever the process dies, one of the three names holds a whole one.
  if (await isThere(current)) await rename(current, join(run, previousName));
  await rename(next, current);
}

/**
 * The newest whole checkpoint of a run's folder, if there is one. What is damaged is named to `onNotice`, and the one before is taken.
 * Throws a `UserError` if there are checkpoints and none of them is whole.
 */
export async function readCheckpoint(
  run: string,
  onNotice?: (notice: string) => void,
): Promise<RunCheckpoint | undefined> {
  const problems: string[] = [];
  // A new one beside the current one was being written when the process ended.
  for (const name of [currentName, newName, previousName]) {
    const path = join(run, name);
    if (!(await isThere(path))) continue;
    try {
      const found = await readOne(path);
      for (const problem of problems) onNotice?.(problem);
      if (problems.length > 0) onNotice?.(`${path} is taken in its place, of step ${found.step}`);
      return found;
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      problems.push(error.message);
    }
  }
  if (problems.length === 0) return undefined;
  throw new UserError(`no checkpoint of this run is whole: ${problems.join("; ")}; start a new run`);
}

async function readOne(path: string): Promise<RunCheckpoint> {
  const file = await openSafetensors(path);
  const step = Number(file.metadata["step"]);
  if (!Number.isInteger(step))
    throw new UserError(`${path} does not say which step it holds: it is not a checkpoint of a run`);
  const tensors = await file.readAll();
  const { sha256 } = file.metadata;
  if (sha256 !== undefined && sha256 !== digestOf(tensors))
    throw new UserError(`${path} is damaged: its tensors are not those that were written`);
  return { step, tensors };
}

function digestOf(tensors: ReadonlyMap<string, HostTensor>): string {
  const hash = createHash("sha256");
  for (const [name, { data, dims }] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1))) {
    hash
      .update(JSON.stringify([name, dims]))
      .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest("hex");
}
