/** Beam search, with and without draws. */
import { Random } from "../../random.js";
import type { LogitProcessor } from "./logits.js";
import { processorsOf } from "./processors.js";
import {
  noToken,
  ownLogProbabilities,
  type Continuation,
  type GeneratedSequence,
  type Search,
  type SearchSettings,
} from "./search.js";

interface Beam {
  readonly tokenIds: readonly number[];
  readonly tokenLogProbabilities: readonly number[];
  /** Sum of processed log-probabilities. */
  readonly sum: number;
  readonly logProbability: number;
}

interface Candidate extends Continuation {
  /** Sum with this token. */
  readonly sum: number;
}

/**
 * Beam search with the rules of transformers 4.57 and later. Each step ranks the candidates of all beams by
 * their sums. A candidate that hits (an end token, or the length limit) may finish only among the best `numBeams`;
 * the best others run on. With sampling the candidates are drawn, without putting back, and ranked in the order of the draws.
 */
export class BeamSearch implements Search {
  private readonly processors: readonly LogitProcessor[];
  private running: readonly Beam[] = [{ tokenIds: [], tokenLogProbabilities: [], sum: 0, logProbability: 0 }];
  private finished: readonly GeneratedSequence[] = [];
  private length = 0;

  constructor(
    private readonly settings: SearchSettings,
    private readonly promptIds: readonly number[],
  ) {
    this.processors = processorsOf(settings);
  }

  next(logits: readonly Float32Array[]): readonly Continuation[] {
    const { settings, promptIds } = this;
    const { numBeams, endIds, maxNewTokens, lengthPenalty, sampling, isStopped } = settings;
    const raw = logits.map(ownLogProbabilities);
    const scores = raw.map((logProbabilities, beam) => {
      const sequence = { promptIds, newIds: this.running[beam]!.tokenIds };
      if (this.processors.length === 0) return logProbabilities;
      const processed = logProbabilities.slice();
      for (const process of this.processors) process(processed, sequence);
      return processed;
    });
    // Enough that `numBeams` are left when all the others are ends.
    const count = Math.max(2, 1 + endIds.length) * numBeams;
    const noise = sampling && new Random("beams", sampling.seed, this.length);
    const candidates = best(scores, this.running, count, noise);
    if (candidates.length === 0) throw noToken(logits[0]!);
    this.length++;
    const atLimit = this.length >= maxNewTokens;
    const divisor = this.length ** lengthPenalty;
    const finished = [...this.finished];
    let next: { readonly beam: Beam; readonly continuation: Continuation }[] = [];
    for (const [rank, { parent, token, sum }] of candidates.entries()) {
      const from = this.running[parent]!;
      const own = raw[parent]![token]!;
      const beam = {
        tokenIds: [...from.tokenIds, token],
        tokenLogProbabilities: [...from.tokenLogProbabilities, own],
        logProbability: from.logProbability + own,
        sum,
      };
      if (!atLimit && !endIds.includes(token) && !isStopped?.(beam.tokenIds)) {
        next.push({ beam, continuation: { parent, token } });
      } else if (rank < numBeams) {
        const { sum: _, ...sequence } = beam;
        finished.push({ ...sequence, score: sum / divisor });
      }
    }
    // Drawn candidates are in the order of the draws; the best of them run on.
    next = next.sort((a, b) => b.beam.sum - a.beam.sum).slice(0, numBeams);
    // Sorting is stable: of equals, the one that finished first stays first.
    this.finished = finished.sort((a, b) => b.score - a.score).slice(0, numBeams);
    this.running = next.map(({ beam }) => beam);
    return this.isOver() ? [] : next.map(({ continuation }) => continuation);
  }

  private isOver(): boolean {
    const { numBeams, earlyStopping, lengthPenalty, maxNewTokens } = this.settings;
    if (this.running.length === 0) return true;
    if (this.finished.length < numBeams) return false;
    if (earlyStopping === true) return true;
    const reach = earlyStopping === "never" && lengthPenalty > 0 ? maxNewTokens : this.length;
    return this.running[0]!.sum / reach ** lengthPenalty <= this.finished.at(-1)!.score;
  }

  get results(): readonly GeneratedSequence[] {
    return this.finished.slice(0, this.settings.numReturnSequences);
  }
}

/**
 * The `count` largest sums over all beams and tokens, largest first; of equals, the first. With `noise`, `count` draws
 * without putting back, by the probabilities that the sums imply: the largest after adding a Gumbel variate to each.
 */
function best(
  scores: readonly Float32Array[],
  beams: readonly Beam[],
  count: number,
  noise: Random | undefined,
): Candidate[] {
  const found: (Candidate & { readonly rank: number })[] = [];
  let least = -Infinity;
  for (const [parent, row] of scores.entries()) {
    const before = beams[parent]!.sum;
    for (let token = 0; token < row.length; token++) {
      // In float32, as the reference adds.
      const sum = Math.fround(before + row[token]!);
      // A variate for every token, so that each depends on its place alone.
      const rank = noise === undefined ? sum : sum - Math.log(-Math.log(noise.next()));
      if (!(rank > least)) continue;
      let place = found.length;
      while (place > 0 && found[place - 1]!.rank < rank) place--;
      found.splice(place, 0, { parent, token, sum, rank });
      if (found.length > count) found.pop();
      if (found.length === count) least = found.at(-1)!.rank;
    }
  }
  return found;
}
