/** Tables and sentences that are computed from results, so that they say what came out, whatever that is. */
import type { ArmData } from "./data.js";
import { compare, comparePaired, leastSeeds, type Summary, type Verdict } from "./statistics.js";

/** How a kind of number is written. */
export interface Unit {
  readonly show: (value: number) => string;
  readonly showDifference: (value: number) => string;
}

const signed = (text: string, value: number): string => `${value < 0 ? "−" : "+"}${text}`;

/** Shares as percentages; differences in points. */
export const percent: Unit = {
  show: (value) => (100 * value).toFixed(1),
  showDifference: (value) => signed((100 * Math.abs(value)).toFixed(1), value),
};

export const plain: Unit = {
  show: (value) => value.toFixed(3),
  showDifference: (value) => signed(Math.abs(value).toFixed(3), value),
};

export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  alignment: readonly ("left" | "right")[] = [],
): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const rule = head.map((_, i) => (alignment[i] === "right" ? "---:" : "---"));
  return [line(head), line(rule), ...rows.map(line)].join("\n");
}

/** `61.2 ± 1.4 (59.8 to 62.9)`: mean, standard deviation and range of the seeds. */
export function spreadCell(summary: Summary | undefined, unit: Unit): string {
  if (summary === undefined) return "";
  const { count, mean, deviation, min, max } = summary;
  if (count === 1) return `${unit.show(mean)} (one seed)`;
  return `${unit.show(mean)} ± ${unit.show(deviation)} (${unit.show(min)} to ${unit.show(max)})`;
}

/** What was measured of two arms at their last steps, and whether they differ. */
export function difference(
  measure: string,
  first: ArmData,
  second: ArmData,
  unit: Unit,
  title = measure,
): { readonly sentence: string; readonly verdict: Verdict } | undefined {
  const values = [first.values(measure), second.values(measure)] as const;
  if (values[0].length === 0 || values[1].length === 0) return undefined;
  const { first: a, second: b, difference: gap, spread, verdict } = compare(...values);
  const means = `${unit.show(a.mean)} (${first.label}) against ${unit.show(b.mean)} (${second.label}), a difference of ${unit.showDifference(gap)}`;
  const judged: { readonly [V in Verdict]: string } = {
    above: `larger than the spread of the seeds (${unit.show(spread)}): every seed of the first lies above every seed of the second`,
    below: `larger than the spread of the seeds (${unit.show(spread)}): every seed of the first lies below every seed of the second`,
    "within the spread": `no difference larger than the spread of the seeds (${unit.show(spread)})`,
    "too few seeds": `from ${a.count} and ${b.count} seeds, where ${leastSeeds} of each are needed to say more`,
  };
  return { sentence: `${title}: ${means}; ${judged[verdict]}.`, verdict };
}

/** Two measures of the same models, seed by seed: the first against the second. */
export function pairedDifference(
  arm: ArmData,
  first: string,
  second: string,
  unit: Unit,
  title: string,
): { readonly sentence: string; readonly verdict: Verdict } | undefined {
  const values = [arm.values(first), arm.values(second)] as const;
  if (values[0].length === 0 || values[0].length !== values[1].length) return undefined;
  const { differences, higher, lower, verdict } = comparePaired(...values);
  const range = `${unit.showDifference(differences.min)} to ${unit.showDifference(differences.max)}`;
  const judged: { readonly [V in Verdict]: string } = {
    above: "higher in every seed",
    below: "lower in every seed",
    "within the spread": `higher in ${higher} and lower in ${lower} of ${differences.count} seeds, so no difference that the seeds agree on`,
    "too few seeds": `from ${differences.count} seeds, where ${leastSeeds} are needed to say more`,
  };
  return {
    sentence: `${title}: ${unit.showDifference(differences.mean)} in the mean (${range}); ${judged[verdict]}.`,
    verdict,
  };
}

/** Whether verdicts bear out what is claimed, each of them being for it when it is `wanted`. */
export function agreement(
  claim: string,
  verdicts: readonly (Verdict | undefined)[],
  wanted: "above" | "below",
): string {
  const known = verdicts.filter((verdict) => verdict !== undefined);
  const count = (...kinds: readonly Verdict[]): number =>
    known.filter((verdict) => kinds.includes(verdict)).length;
  const [borneOut, against] = [count(wanted), count(wanted === "above" ? "below" : "above")];
  if (known.length === 0 || count("too few seeds") === known.length)
    return `**${claim}:** not settled here, for want of ${leastSeeds} seeds on each side.`;
  const open = known.length - borneOut - against;
  const tally = `${borneOut} of ${known.length} comparisons are for it, ${against} against it, ${open} undecided`;
  if (borneOut === known.length) return `**${claim}:** borne out here (${tally}).`;
  if (against === known.length) return `**${claim}:** the opposite came out here (${tally}).`;
  if (borneOut > 0 && against === 0) return `**${claim}:** borne out in part (${tally}).`;
  if (against > 0 && borneOut === 0)
    return `**${claim}:** not borne out; in part the opposite came out (${tally}).`;
  if (borneOut > 0) return `**${claim}:** mixed (${tally}).`;
  return `**${claim}:** not borne out here: no difference larger than the spread (${tally}).`;
}

/** Falls from its best earlier step to the last by more than the seeds spread. */
export function course(arm: ArmData, measure: string, unit: Unit): string | undefined {
  const points = arm.points(measure);
  const last = points.at(-1);
  if (last === undefined || points.length < 2) return undefined;
  const earlier = points.slice(0, -1);
  const best = earlier.reduce((top, point) => (point.y.mean > top.y.mean ? point : top));
  const fall = compare(arm.values(measure, best.x), arm.values(measure, last.x));
  const [from, to] = [
    `${unit.show(best.y.mean)} at step ${best.x}`,
    `${unit.show(last.y.mean)} at step ${last.x}`,
  ];
  const judged: { readonly [V in Verdict]: string } = {
    above: "it falls by more than the seeds spread",
    below: "it still rises",
    "within the spread": "no change larger than the spread",
    "too few seeds": "too few seeds to say more",
  };
  return `${arm.label}: ${from}, ${to}: ${judged[fall.verdict]}.`;
}

export const list = (sentences: readonly (string | undefined)[]): string =>
  sentences.flatMap((sentence) => (sentence === undefined ? [] : [`- ${sentence}`])).join("\n");
