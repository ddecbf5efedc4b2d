/** From logits to the scores that a search compares. V vocabulary. */

/** What a processor may look at besides the scores. */
export interface SequenceSoFar {
  /** Token ids of the prompt, padding included. */
  readonly promptIds: readonly number[];
  readonly newIds: readonly number[];
}

/** Changes the scores [V] of one sequence in place. */
export type LogitProcessor = (scores: Float32Array, sequence: SequenceSoFar) => void;

/** No end before `count` new tokens. */
export function minimumNewTokens(count: number, endIds: readonly number[]): LogitProcessor {
  return (scores, { newIds }) => {
    if (newIds.length >= count) return;
    for (const id of endIds) if (id < scores.length) scores[id] = -Infinity;
  };
}

/**
 * Makes ids of the prompt and of the new text less likely by a factor above 1 (Keskar et al. 2019): negative
 * scores are multiplied by it, positive ones divided.
 */
export function repetitionPenalty(factor: number): LogitProcessor {
  return (scores, { promptIds, newIds }) => {
    for (const id of new Set([...promptIds, ...newIds])) {
      const score = scores[id];
      if (score !== undefined) scores[id] = score < 0 ? score * factor : score / factor;
    }
  };
}

/** log(softmax(logits)), as a new array. */
export function logSoftmax(logits: Float32Array): Float32Array {
  let largest = -Infinity;
  for (const value of logits) if (value > largest) largest = value;
  let sum = 0;
  for (const value of logits) sum += Math.exp(value - largest);
  const shift = largest + Math.log(sum);
  return logits.map((value) => value - shift);
}
