/** The seed of a step's random draws: a function of the run's seed, the step and the part. */
import type { HostTensor } from "../host-tensor.js";

export function stepSeed(seed: number, step: number, part: number): HostTensor {
  const value = (BigInt(seed) << 40n) ^ (BigInt(step) << 8n) ^ BigInt(part);
  return { dtype: "uint64", dims: [], data: BigUint64Array.of(BigInt.asUintN(64, value)) };
}
