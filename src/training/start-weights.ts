/** Where a run's weights come from: drawn anew, or taken over from an earlier run. */
import { checkTensors } from "../checkpoints/model-folder.js";
import type { HostTensor } from "../host-tensor.js";
import { initialise } from "../nn/initialise.js";
import type { Parameters } from "../nn/parameters.js";
import { slots } from "./optimizer.js";
import { checkpointOf } from "./run-folder.js";

/**
 * Weights before the first step. With `start`, the folder of an earlier run of the same sizes, its checkpoint's
 * weights (moments begin anew). Throws a `UserError` naming every weight that does not fit.
 */
export async function startWeights(
  parameters: Parameters,
  seed: number,
  start?: string,
): Promise<ReadonlyMap<string, HostTensor>> {
  if (start === undefined) return initialise(parameters.trainable, seed);
  const { tensors } = await checkpointOf(start);
  const found = new Map<string, HostTensor>();
  for (const { name } of parameters.trainable) {
    const value = tensors.get(slots.weight(name));
    if (value !== undefined) found.set(name, value);
  }
  // Frozen weights are in no checkpoint of a run.
  const wanted = new Map(parameters.trainable.map(({ name, shape }) => [name, shape]));
  checkTensors(wanted, found, start);
  return found;
}
