/** Numbers that say how well a picture and a text belong together, from what the programs give. */
import { UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import type { ImageTextScore } from "./calls.js";

export type ImageTextMatch = Pick<ImageTextScore, "itmLogit" | "itmProbability">;

/** The largest dot product of a text's row with a picture's rows. queries: Q x E, text: E. */
export function bestCosine(queries: Float32Array, text: Float32Array): number {
  let best = -Infinity;
  for (let start = 0; start < queries.length; start += text.length) {
    let sum = 0;
    for (let e = 0; e < text.length; e++) sum += queries[start + e]! * text[e]!;
    best = Math.max(best, sum);
  }
  return best;
}

/** logits: [N, 2], or [N, 1] of a model that stage 1 trained with one logit. */
export function matchOf({ data, dims }: HostTensor, row: number): ImageTextMatch {
  const [, classes] = dims as readonly [number, number];
  const itmLogit = Number(data[row * classes + classes - 1]);
  const against = classes === 2 ? Number(data[row * classes]) : 0;
  return { itmLogit, itmProbability: 1 / (1 + Math.exp(against - itmLogit)) };
}

/** Throws a `UserError` if what the model makes of pictures or texts are no numbers, which only its weights can bring about. */
export function checkFinite(what: string, { data }: HostTensor): void {
  if ((data as Float32Array).every(Number.isFinite)) return;
  throw new UserError(
    `${what}: what the model makes of them are not numbers: its weights hold values that are not finite, or too large ones; ` +
      "fetch or convert the model again",
  );
}

/** Row `i` of `count` rows of a float32 tensor, as a copy. */
export function rowOf({ data }: HostTensor, i: number, count: number): Float32Array {
  const size = data.length / count;
  return (data as Float32Array).slice(i * size, (i + 1) * size);
}
