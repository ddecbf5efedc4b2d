/**
 * What the Q-Former's queries look at, as plain numbers: the probabilities of its cross-attention, and for a text
 * their gradient-weighted form, reduced to one map over the picture's patches per query.
 *
 * Shapes: L layers with cross-attention, H heads, Q queries, P image positions.
 */
import { UserError } from "../errors.js";
import type { PatchGrid, PatchMap } from "../images/patch-map.js";

/** Numbers over layers, heads, queries and image positions. */
type AttentionDims = readonly [layers: number, heads: number, queries: number, positions: number];

export interface ImageAttention {
  /** [L, H, Q, P]: how a query spreads its attention in one head of one layer; each row sums to 1. */
  readonly probabilities: Float32Array;
  readonly dims: AttentionDims;
  /** Which layers of the Q-Former the L are, counted from 0. */
  readonly layers: readonly number[];
  /** Where the picture's patches lie. */
  readonly grid: PatchGrid;
  /** The position of the first patch, rows from the top left: 1, behind the encoder's class position. */
  readonly firstPatch: number;
}

export interface MatchingAttention extends ImageAttention {
  readonly text: string;
  /** [L, H, Q, P]: how the match logit changes with each of the probabilities. */
  readonly gradients: Float32Array;
  /** As `Blip2Retriever.score` gives them. */
  readonly itmLogit: number;
  readonly itmProbability: number;
}

/** What is not chosen is averaged. */
export interface AttentionChoice {
  /** An index of the Q-Former's layers: one of `layers`. */
  readonly layer?: number | undefined;
  readonly head?: number | undefined;
}

/** What one query, or the mean of several, gives to each patch. */
export interface AttentionMap extends PatchMap {
  /** What it gives to the class position, which has no place in the picture. */
  readonly classValue: number;
}

export interface Peak {
  readonly row: number;
  readonly column: number;
  /** What the patch has of the whole, the class position included. */
  readonly share: number;
}

/** Names each choice that the model does not have, and those that it has; nothing where all is well. */
export function choiceProblems(
  { layers, heads, queries }: { layers: readonly number[]; heads: number; queries: number },
  { layer, head, query }: AttentionChoice & { readonly query?: number | undefined },
): string[] {
  const outside = (count: number, value: number | undefined): boolean =>
    value !== undefined && !(Number.isInteger(value) && value >= 0 && value < count);
  const problems: string[] = [];
  if (layer !== undefined && !layers.includes(layer)) {
    problems.push(
      `layer ${layer} is not there: the queries look at the picture in ${layers.length === 1 ? "layer" : "layers"} ${layers.join(", ")}`,
    );
  }
  if (outside(heads, head)) problems.push(`head ${head} is not there: 0 to ${heads - 1} are`);
  if (outside(queries, query)) problems.push(`query ${query} is not there: 0 to ${queries - 1} are`);
  return problems;
}

/** Where each query looks: its probabilities, of the chosen layer and head or averaged. One map per query. */
export function attentionMaps(attention: ImageAttention, choice: AttentionChoice = {}): AttentionMap[] {
  return queryMaps(attention, attention.probabilities, choice);
}

/**
 * Where each query finds what speaks for the text, as BLIP and ALBEF draw it (Grad-CAM on attention): probabilities
 * times the gradients of the match logit where these are above zero, of the chosen layer and head or averaged.
 * One map per query; only their proportions mean something.
 */
export function matchingMaps(attention: MatchingAttention, choice: AttentionChoice = {}): AttentionMap[] {
  const { probabilities, gradients } = attention;
  return queryMaps(
    attention,
    probabilities.map((probability, i) => probability * Math.max(0, gradients[i]!)),
    choice,
  );
}

/** values: [L, H, Q, P]. */
function queryMaps(attention: ImageAttention, values: Float32Array, choice: AttentionChoice): AttentionMap[] {
  const {
    dims: [layerCount, headCount, queryCount, positions],
    layers,
    grid,
    firstPatch,
  } = attention;
  const problems = choiceProblems({ layers, heads: headCount, queries: queryCount }, choice);
  if (problems.length > 0) throw new UserError(`attention: ${problems.join("; ")}`);
  const every = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
  const chosenLayers = choice.layer === undefined ? every(layerCount) : [layers.indexOf(choice.layer)];
  const chosenHeads = choice.head === undefined ? every(headCount) : [choice.head];
  return every(queryCount).map((query) => {
    const sums = new Float64Array(positions);
    for (const layer of chosenLayers) {
      for (const head of chosenHeads) {
        const start = ((layer * headCount + head) * queryCount + query) * positions;
        for (let p = 0; p < positions; p++) sums[p] = sums[p]! + values[start + p]!;
      }
    }
    const means = sums.map((sum) => sum / (chosenLayers.length * chosenHeads.length));
    return {
      ...grid,
      values: Float32Array.from(means.subarray(firstPatch)),
      classValue: means.subarray(0, firstPatch).reduce((a, b) => a + b, 0),
    };
  });
}

/** The mean of maps over one grid, such as those of all queries. */
export function meanMap(maps: readonly AttentionMap[]): AttentionMap {
  const [first] = maps;
  if (first === undefined) throw new UserError("meanMap: at least one map is required");
  const mean = (valueOf: (map: AttentionMap) => number): number =>
    maps.reduce((sum, map) => sum + valueOf(map), 0) / maps.length;
  return {
    ...first,
    values: first.values.map((_, i) => mean(({ values }) => values[i]!)),
    classValue: mean(({ classValue }) => classValue),
  };
}

/** The patch with most, the first of equals; undefined where the map is zero everywhere. */
export function peakOf({ values, columns, classValue }: AttentionMap): Peak | undefined {
  const whole = values.reduce((sum, value) => sum + value, classValue);
  const largest = values.reduce((best, value, i) => (value > values[best]! ? i : best), 0);
  if (!(values[largest]! > 0)) return undefined;
  return {
    row: Math.floor(largest / columns),
    column: largest % columns,
    share: values[largest]! / whole,
  };
}
