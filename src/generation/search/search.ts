/** How one prompt's text is searched for. A search sees the logits of its sequences and says how they go on. */
import { Random } from "../../random.js";
import { InternalError, UserError } from "../../errors.js";
import type { Contrastive } from "./contrastive-search.js";
import { logSoftmax, type LogitProcessor } from "./logits.js";
import { processorsOf } from "./processors.js";
import type { Sampling } from "./sampling.js";

export interface SearchSettings {
  readonly maxNewTokens: number;
  /** The end token is impossible before; it counts itself. */
  readonly minNewTokens: number;
  /** 1: greedy search. */
  readonly numBeams: number;
  /** At most `numBeams`. */
  readonly numReturnSequences: number;
  /** Power of the length by which a finished beam's log-probability is divided; above 0 favours long texts. */
  readonly lengthPenalty: number;
  /**
   * When beam search may stop with `numBeams` finished sequences: true at once; false when the best running one,
   * at its present length, is not better than the worst finished; "never" when it cannot become better.
   */
  readonly earlyStopping: boolean | "never";
  /** 1 for none. */
  readonly repetitionPenalty: number;
  /** No sequence of so many ids comes twice, the prompt's counting too; 0 for no such rule. */
  readonly noRepeatNgramSize?: number | undefined;
  /** Sequences of ids that do not occur. */
  readonly forbidden?: readonly (readonly number[])[] | undefined;
  /** Tokens are drawn at random; with several beams, the beams' continuations are. */
  readonly sampling?: Sampling | undefined;
  /** With one beam: contrastive search. */
  readonly contrastive?: Contrastive | undefined;
  /** Each of these ends a sequence. */
  readonly endIds: readonly number[];
  /** Whether new ids end a sequence for another reason, such as the text that they spell. */
  readonly isStopped?: ((newIds: readonly number[]) => boolean) | undefined;
}

export interface GeneratedSequence {
  /** New ids, the end token included if there is one. */
  readonly tokenIds: readonly number[];
  /** What beam search ranks by; in other searches the log-probability. */
  readonly score: number;
  /** The sum of the model's own log-probabilities of `tokenIds`. */
  readonly logProbability: number;
  /** One for each of `tokenIds`. */
  readonly tokenLogProbabilities: readonly number[];
}

/** A sequence that goes on: which of the last ones it continues, by which token. */
export interface Continuation {
  readonly parent: number;
  readonly token: number;
}

/** The search for one prompt. */
export interface Search {
  /**
   * Takes the logits [V] of each running sequence, and says what runs next: nothing when the search is over.
   * Contrastive search takes the states [E] of each one's new positions too.
   */
  next(
    logits: readonly Float32Array[],
    states?: readonly (readonly Float32Array[])[],
  ): readonly Continuation[];
  /** Best first. Of any search but beam search, also what there is before its end. */
  readonly results: readonly GeneratedSequence[];
}

/** The most likely token, again and again. */
export class GreedySearch implements Search {
  private readonly tokenIds: number[] = [];
  private readonly tokenLogProbabilities: number[] = [];
  private readonly processors: readonly LogitProcessor[];
  private logProbability = 0;

  constructor(
    private readonly settings: SearchSettings,
    private readonly promptIds: readonly number[],
  ) {
    this.processors = processorsOf(settings);
  }

  next([logits]: readonly Float32Array[]): readonly Continuation[] {
    const scores = logits!.slice();
    const sequence = { promptIds: this.promptIds, newIds: this.tokenIds };
    for (const process of this.processors) process(scores, sequence);
    let token = -1;
    let best = -Infinity;
    for (let id = 0; id < scores.length; id++) if (scores[id]! > best) [best, token] = [scores[id]!, id];
    if (token < 0) throw noToken(logits!);
    const logProbability = logSoftmax(logits!)[token]!;
    this.logProbability += logProbability;
    this.tokenLogProbabilities.push(logProbability);
    this.tokenIds.push(token);
    const { endIds, maxNewTokens, isStopped } = this.settings;
    const isFull = this.tokenIds.length >= maxNewTokens;
    return isFull || endIds.includes(token) || isStopped?.(this.tokenIds) ? [] : [{ parent: 0, token }];
  }

  get results(): readonly GeneratedSequence[] {
    const { tokenIds, logProbability, tokenLogProbabilities } = this;
    return [{ tokenIds, score: logProbability, logProbability, tokenLogProbabilities }];
  }
}

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
    const raw = logits.map(logSoftmax);
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

/** Why a search cannot go on from these logits. */
export function noToken(logits: Float32Array): Error {
  if (logits.some(Number.isFinite)) {
    return new UserError(
      "generation: noRepeatNgramSize, badWords and minNewTokens together leave no token that may come next; allow more",
    );
  }
  return new InternalError("generation: no token is possible; the model's logits are not numbers");
}
