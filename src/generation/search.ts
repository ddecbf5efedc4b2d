/** How one prompt's text is searched for. A search sees the logits of its sequences and says how they go on. */
import { InternalError } from "../errors.js";
import { logSoftmax, minimumNewTokens, repetitionPenalty, type LogitProcessor } from "./logits.js";

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
  /** Each of these ends a sequence. */
  readonly endIds: readonly number[];
}

export interface GeneratedSequence {
  /** New ids, the end token included if there is one. */
  readonly tokenIds: readonly number[];
  /** What beam search ranks by; the log-probability in greedy search. */
  readonly score: number;
  /** The sum of the model's own log-probabilities of `tokenIds`. */
  readonly logProbability: number;
}

/** A sequence that goes on: which of the last ones it continues, by which token. */
export interface Continuation {
  readonly parent: number;
  readonly token: number;
}

/** The search for one prompt. */
export interface Search {
  /** Takes the logits [V] of each running sequence, and says what runs next: nothing when the search is over. */
  next(logits: readonly Float32Array[]): readonly Continuation[];
  /** Best first. Of a greedy search, also what there is before its end. */
  readonly results: readonly GeneratedSequence[];
}

/** @param promptIds what processors count as seen. */
export function startSearch(settings: SearchSettings, promptIds: readonly number[]): Search {
  return settings.numBeams === 1
    ? new GreedySearch(settings, promptIds)
    : new BeamSearch(settings, promptIds);
}

function processorsOf(settings: SearchSettings): LogitProcessor[] {
  return [
    ...(settings.repetitionPenalty === 1 ? [] : [repetitionPenalty(settings.repetitionPenalty)]),
    ...(settings.minNewTokens > 1 ? [minimumNewTokens(settings.minNewTokens, settings.endIds)] : []),
  ];
}

/** The most likely token, again and again. */
export class GreedySearch implements Search {
  private readonly tokenIds: number[] = [];
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
    if (token < 0) throw noToken();
    this.logProbability += logSoftmax(logits!)[token]!;
    this.tokenIds.push(token);
    const { endIds, maxNewTokens } = this.settings;
    return endIds.includes(token) || this.tokenIds.length >= maxNewTokens ? [] : [{ parent: 0, token }];
  }

  get results(): readonly GeneratedSequence[] {
    const { tokenIds, logProbability } = this;
    return [{ tokenIds, score: logProbability, logProbability }];
  }
}

interface Beam {
  readonly tokenIds: readonly number[];
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
 * the best others run on.
 */
export class BeamSearch implements Search {
  private readonly processors: readonly LogitProcessor[];
  private running: readonly Beam[] = [{ tokenIds: [], sum: 0, logProbability: 0 }];
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
    const { numBeams, endIds, maxNewTokens, lengthPenalty } = settings;
    const raw = logits.map(logSoftmax);
    const scores = raw.map((logProbabilities, beam) => {
      const sequence = { promptIds, newIds: this.running[beam]!.tokenIds };
      const processed = logProbabilities.slice();
      for (const process of this.processors) process(processed, sequence);
      return processed;
    });
    // Enough that `numBeams` are left when all the others are ends.
    const count = Math.max(2, 1 + endIds.length) * numBeams;
    const candidates = best(scores, this.running, count);
    if (candidates.length === 0) throw noToken();
    this.length++;
    const atLimit = this.length >= maxNewTokens;
    const divisor = this.length ** lengthPenalty;
    const finished = [...this.finished];
    const next: { readonly beam: Beam; readonly continuation: Continuation }[] = [];
    for (const [rank, { parent, token, sum }] of candidates.entries()) {
      const from = this.running[parent]!;
      const tokenIds = [...from.tokenIds, token];
      const logProbability = from.logProbability + raw[parent]![token]!;
      if (!atLimit && !endIds.includes(token)) {
        if (next.length < numBeams)
          next.push({ beam: { tokenIds, sum, logProbability }, continuation: { parent, token } });
      } else if (rank < numBeams) {
        finished.push({ tokenIds, score: sum / divisor, logProbability });
      }
    }
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

/** The `count` largest sums over all beams and tokens, largest first; of equals, the first. */
function best(scores: readonly Float32Array[], beams: readonly Beam[], count: number): Candidate[] {
  const found: Candidate[] = [];
  let least = -Infinity;
  for (const [parent, row] of scores.entries()) {
    const before = beams[parent]!.sum;
    for (let token = 0; token < row.length; token++) {
      // In float32, as the reference adds.
      const sum = Math.fround(before + row[token]!);
      if (!(sum > least)) continue;
      let place = found.length;
      while (place > 0 && found[place - 1]!.sum < sum) place--;
      found.splice(place, 0, { parent, token, sum });
      if (found.length > count) found.pop();
      if (found.length === count) least = found.at(-1)!.sum;
    }
  }
  return found;
}

function noToken(): InternalError {
  return new InternalError("generation: no token is possible; the model's logits are not numbers");
}
