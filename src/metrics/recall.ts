/**
 * Recall, by one rule for equals: a wrong candidate that scores as high as the best right one stands before it. So the measure does not
 * depend on the order in which candidates happen to come, and a model that finds everything alike finds nothing.
 */

/**
 * How many wrong candidates stand before the best right one, of `count` candidates; `Infinity` where none is right.
 *
 * @param score the higher the better; NaN is below everything
 */
export function rankOf(
  count: number,
  score: (candidate: number) => number,
  isRight: (candidate: number) => boolean,
): number {
  let best = -Infinity;
  let hasRight = false;
  for (let candidate = 0; candidate < count; candidate++) {
    if (!isRight(candidate)) continue;
    hasRight = true;
    best = Math.max(best, numberOf(score(candidate)));
  }
  if (!hasRight) return Infinity;
  let rank = 0;
  for (let candidate = 0; candidate < count; candidate++)
    if (!isRight(candidate) && numberOf(score(candidate)) >= best) rank += 1;
  return rank;
}

/**
 * The first `depth` candidates by the same rule: the highest scores, the best first; of equals the wrong ones first, and of these the
 * earlier one.
 */
export function bestOf(
  count: number,
  score: (candidate: number) => number,
  isRight: (candidate: number) => boolean,
  depth: number,
): number[] {
  interface Placed {
    readonly candidate: number;
    readonly score: number;
    readonly isRight: boolean;
  }
  const isBefore = (a: Placed, b: Placed): boolean =>
    a.score > b.score || (a.score === b.score && !a.isRight && b.isRight);
  const top: Placed[] = [];
  for (let candidate = 0; candidate < count; candidate++) {
    const placed = { candidate, score: numberOf(score(candidate)), isRight: isRight(candidate) };
    if (top.length === depth && !isBefore(placed, top.at(-1)!)) continue;
    const place = top.findIndex((other) => isBefore(placed, other));
    top.splice(place < 0 ? top.length : place, 0, placed);
    if (top.length > depth) top.pop();
  }
  return top.map(({ candidate }) => candidate);
}

const numberOf = (score: number): number => (Number.isNaN(score) ? -Infinity : score);

/** The share of ranks that are among the first `depth`; 0 of none. */
export function recallAt(ranks: readonly number[], depth: number): number {
  return ranks.length === 0 ? 0 : ranks.filter((rank) => rank < depth).length / ranks.length;
}
