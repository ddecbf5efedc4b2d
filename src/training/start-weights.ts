/** Where a run's weights come from: drawn anew, or taken over from an earlier run or from what one wrote. */
import { toFloat32 } from "../float16.js";
import { checkTensors, readModelFolder } from "../checkpoints/model-folder.js";
import { UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import { initialise } from "../nn/initialise.js";
import type { Parameters } from "../nn/parameters.js";
import { slots } from "./optimizer.js";
import { readCheckpoint } from "./checkpoint.js";

/**
 * Weights before the first step. With `start`, those of an earlier run of the same sizes (moments begin anew): the
 * checkpoint of its folder, or else a model folder, such as a run's `model/` or a bundled one, whose weights may have
 * been rounded to float16. Throws a `UserError` naming every weight that does not fit.
 */
export async function startWeights(
  parameters: Parameters,
  seed: number,
  start?: string,
): Promise<ReadonlyMap<string, HostTensor>> {
  if (start === undefined) return initialise(parameters.trainable, seed);
  const wanted = new Map(parameters.trainable.map(({ name, shape }) => [name, shape]));
  const checkpoint = await readCheckpoint(start);
  if (checkpoint !== undefined) {
    const found = new Map<string, HostTensor>();
    for (const name of wanted.keys()) {
      const value = checkpoint.tensors.get(slots.weight(name));
      if (value !== undefined) found.set(name, value);
    }
    checkTensors(wanted, found, start);
    return found;
  }
  const { weights, path } = await readModelFolder(start).catch((error: unknown) => {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(
      `start: ${start} holds no checkpoint of a run, and as a model folder: ${error.message}`,
      {
        cause: error,
      },
    );
  });
  // It holds what is frozen too, which a checkpoint does not.
  checkTensors(wanted, weights.tensors, path, { ignored: (name) => !wanted.has(name) });
  const values = await weights.readAll(wanted.keys());
  return new Map([...values].map(([name, value]) => [name, toFloat32(value)]));
}
