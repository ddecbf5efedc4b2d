/**
 * Sampling: tokens drawn at random by their probability. Every draw is a function of the seed, the number of the
 * sequence and the place in it. So a text is the same alone, in a batch, and beside other work.
 */
import { Random } from "../../random.js";
import type { LogitProcessor } from "./logits.js";
import { processorsOf } from "./processors.js";
import {
  noToken,
  ownLogProbabilities,
  type Continuation,
  type GeneratedSequence,
  type Sampling,
  type Search,
  type SearchSettings,
} from "./search.js";

/** Uniform in [0, 1): the draw of one token. */
export function tokenDraw(seed: number, sequence: number, place: number): number {
  return new Random("token", seed, sequence, place).next();
}

/**
 * The id at the height `draw` in [0, 1) of the piled-up probabilities of softmax(scores).
 * -1 if no id is possible.
 */
export function idAt(scores: Float32Array, draw: number): number {
  let largest = -Infinity;
  for (const score of scores) if (score > largest) largest = score;
  if (largest === -Infinity) return -1;
  let total = 0;
  for (const score of scores) total += Math.exp(score - largest);
  const height = draw * total;
  let [below, last] = [0, -1];
  for (let id = 0; id < scores.length; id++) {
    const weight = Math.exp(scores[id]! - largest);
    if (weight === 0) continue;
    below += weight;
    last = id;
    if (below > height) return id;
  }
  return last;
}

interface Drawn {
  readonly sequence: number;
  readonly tokenIds: readonly number[];
  readonly tokenLogProbabilities: readonly number[];
  readonly logProbability: number;
}

/** `numReturnSequences` texts for one prompt, drawn independently of each other. */
export class SamplingSearch implements Search {
  private readonly processors: readonly LogitProcessor[];
  private readonly drawn: Drawn[];
  /** The sequence of each row. */
  private running: readonly number[];
  private started = false;

  constructor(
    private readonly settings: SearchSettings,
    private readonly sampling: Sampling,
    private readonly promptIds: readonly number[],
  ) {
    this.processors = processorsOf(settings);
    this.drawn = Array.from({ length: settings.numReturnSequences }, (_, sequence) => ({
      sequence,
      tokenIds: [],
      tokenLogProbabilities: [],
      logProbability: 0,
    }));
    this.running = this.drawn.map(({ sequence }) => sequence);
  }

  next(logits: readonly Float32Array[]): readonly Continuation[] {
    const { endIds, maxNewTokens, isStopped } = this.settings;
    const continuations: Continuation[] = [];
    const goesOn: number[] = [];
    for (const [row, sequence] of this.running.entries()) {
      // All sequences begin with the one row of the prompt.
      const parent = this.started ? row : 0;
      const before = this.drawn[sequence]!;
      const own = ownLogProbabilities(logits[parent]!);
      const scores = logits[parent]!.slice();
      const soFar = { promptIds: this.promptIds, newIds: before.tokenIds };
      for (const process of this.processors) process(scores, soFar);
      const token = idAt(scores, tokenDraw(this.sampling.seed, sequence, before.tokenIds.length));
      if (token < 0) throw noToken(logits[parent]!);
      const logProbability = own[token]!;
      const tokenIds = [...before.tokenIds, token];
      this.drawn[sequence] = {
        sequence,
        tokenIds,
        tokenLogProbabilities: [...before.tokenLogProbabilities, logProbability],
        logProbability: before.logProbability + logProbability,
      };
      if (endIds.includes(token) || tokenIds.length >= maxNewTokens || isStopped?.(tokenIds)) continue;
      continuations.push({ parent, token });
      goesOn.push(sequence);
    }
    this.started = true;
    this.running = goesOn;
    return continuations;
  }

  get results(): readonly GeneratedSequence[] {
    return this.drawn
      .map(({ tokenIds, tokenLogProbabilities, logProbability }) => ({
        tokenIds,
        tokenLogProbabilities,
        logProbability,
        score: logProbability,
      }))
      .sort((a, b) => b.score - a.score);
  }
}
