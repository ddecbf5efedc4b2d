/** Weights from files into the slots of a device, where the measures that training takes find them. */
import { toFloat32 } from "../float16.js";
import { checkTensors } from "../checkpoints/model-folder.js";
import type { Device, Weights } from "../engine/index.js";
import type { Parameters } from "../nn/parameters.js";
import { weightSlots } from "../training/trainer.js";

/**
 * Fills the slots of all `parameters`. Throws a `UserError` that says `where` and names what is missing or
 * misshapen; weights that nobody declared are passed over.
 */
export async function putWeights(
  device: Device,
  parameters: Parameters,
  weights: Weights,
  where: string,
): Promise<void> {
  checkTensors(parameters.shapes, weights, where, { ignored: () => true });
  const slots = Object.entries(weightSlots(parameters));
  await device.put(Object.fromEntries(slots.map(([name, slot]) => [slot, toFloat32(weights.get(name)!)])));
}
