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

/** The new token at a place, counted from 0, is one of `ids`. */
export function forcedAt(place: number, ids: readonly number[]): LogitProcessor {
  return (scores, { newIds }) => {
    if (newIds.length !== place) return;
    scores.fill(-Infinity);
    for (const id of ids) if (id < scores.length) scores[id] = 0;
  };
}

/** The new token at a place is none of `ids`. */
export function excludedAt(place: number, ids: readonly number[]): LogitProcessor {
  return (scores, { newIds }) => {
    if (newIds.length !== place) return;
    for (const id of ids) if (id < scores.length) scores[id] = -Infinity;
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

/**
 * No sequence of `size` ids a second time: an id that would complete one of the prompt's or the new text's is
 * impossible. Windows are taken over both together, as transformers does.
 */
export function noRepeatedNgrams(size: number): LogitProcessor {
  return (scores, { promptIds, newIds }) => {
    const ids = [...promptIds, ...newIds];
    const last = ids.length - (size - 1);
    for (let start = 0; start < last; start++) {
      let same = 0;
      while (same < size - 1 && ids[start + same] === ids[last + same]) same++;
      const completing = ids[start + size - 1];
      if (same === size - 1 && completing !== undefined && completing < scores.length) {
        scores[completing] = -Infinity;
      }
    }
  };
}

/** None of these sequences of ids: what would complete one is impossible. The prompt's end counts as its start. */
export function withoutSequences(sequences: readonly (readonly number[])[]): LogitProcessor {
  return (scores, { promptIds, newIds }) => {
    const ids = [...promptIds, ...newIds];
    for (const sequence of sequences) {
      const before = sequence.length - 1;
      const isNext = sequence
        .slice(0, before)
        .every((id, i) => ids.length >= before && ids[ids.length - before + i] === id);
      const completing = sequence[before];
      if (isNext && completing !== undefined && completing < scores.length) scores[completing] = -Infinity;
    }
  };
}

/** Divides the scores: below 1 the likely becomes likelier, above 1 the unlikely. */
export function temperatureWarper(temperature: number): LogitProcessor {
  return (scores) => {
    for (let id = 0; id < scores.length; id++) scores[id]! /= temperature;
  };
}

/** Keeps the `count` largest scores, and whatever equals the last of them. */
export function topKWarper(count: number): LogitProcessor {
  return (scores) => {
    if (count >= scores.length) return;
    const least = scores.toSorted()[scores.length - count]!;
    for (let id = 0; id < scores.length; id++) if (scores[id]! < least) scores[id] = -Infinity;
  };
}

/**
 * Keeps the smallest set of most likely ids whose probabilities add up to `mass` (Holtzman et al. 2020), and at
 * least `keep` of them. Sums grow from the unlikely end in float32, as the reference's do.
 */
export function topPWarper(mass: number, keep = 1): LogitProcessor {
  return (scores) => {
    const logProbabilities = logSoftmax(scores);
    const order = Uint32Array.from(scores, (_, id) => id)
      .filter((id) => scores[id]! > -Infinity)
      .sort((a, b) => scores[a]! - scores[b]! || a - b);
    let below = 0;
    for (const id of order.subarray(0, Math.max(0, order.length - keep))) {
      below += Math.exp(logProbabilities[id]!);
      if (Math.fround(below) > 1 - mass) break;
      scores[id] = -Infinity;
    }
  };
}

/** log(softmax(logits)), as a new array. */
export function logSoftmax(logits: Float32Array): Float32Array {
  // Plain loops: a vocabulary of fifty thousand comes by for every beam and every token.
  const size = logits.length;
  let largest = -Infinity;
  for (let id = 0; id < size; id++) if (logits[id]! > largest) largest = logits[id]!;
  let sum = 0;
  for (let id = 0; id < size; id++) sum += Math.exp(logits[id]! - largest);
  const shift = largest + Math.log(sum);
  const result = new Float32Array(size);
  for (let id = 0; id < size; id++) result[id] = logits[id]! - shift;
  return result;
}
