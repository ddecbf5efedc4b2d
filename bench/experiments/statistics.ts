/** What a few seeds say: their mean and spread, and whether two arms differ by more than that. */

export interface Summary {
  readonly count: number;
  readonly mean: number;
  readonly min: number;
  readonly max: number;
  /** Of the sample (n - 1); 0 of a single value. */
  readonly deviation: number;
}

/** @param values at least one */
export function summarise(values: readonly number[]): Summary {
  const count = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return {
    count,
    mean,
    min: Math.min(...values),
    max: Math.max(...values),
    deviation: count > 1 ? Math.sqrt(squares / (count - 1)) : 0,
  };
}

/** `above` and `below`: of the first to the second. */
export type Verdict = "above" | "below" | "within the spread" | "too few seeds";

export interface Comparison {
  readonly first: Summary;
  readonly second: Summary;
  /** Of the means. */
  readonly difference: number;
  /** The wider range, smallest to largest, of the two. */
  readonly spread: number;
  readonly verdict: Verdict;
}

/** Fewer on either side say nothing. */
export const leastSeeds = 3;

/**
 * Two arms differ if the means differ by more than the wider range of seeds and the ranges do not overlap. That is
 * stricter than ranges that do not overlap, which happens by chance once in ten with three seeds on each side.
 */
export function compare(first: readonly number[], second: readonly number[]): Comparison {
  const [a, b] = [summarise(first), summarise(second)];
  const difference = a.mean - b.mean;
  const spread = Math.max(a.max - a.min, b.max - b.min);
  const overlap = a.min <= b.max && b.min <= a.max;
  const verdict =
    Math.min(a.count, b.count) < leastSeeds
      ? "too few seeds"
      : overlap || Math.abs(difference) <= spread
        ? "within the spread"
        : difference > 0
          ? "above"
          : "below";
  return { first: a, second: b, difference, spread, verdict };
}

/** The same models measured in two ways: seed by seed. */
export interface PairedComparison {
  readonly differences: Summary;
  readonly higher: number;
  readonly lower: number;
  readonly verdict: Verdict;
}

/** They differ if every seed says so in the same direction. */
export function comparePaired(first: readonly number[], second: readonly number[]): PairedComparison {
  const differences = first.map((value, i) => value - second[i]!);
  const higher = differences.filter((value) => value > 0).length;
  const lower = differences.filter((value) => value < 0).length;
  const verdict =
    differences.length < leastSeeds
      ? "too few seeds"
      : higher === differences.length
        ? "above"
        : lower === differences.length
          ? "below"
          : "within the spread";
  return { differences: summarise(differences), higher, lower, verdict };
}
