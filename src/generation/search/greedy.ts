/** Greedy search. */
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
    const own = ownLogProbabilities(logits!);
    const scores = logits!.slice();
    const sequence = { promptIds: this.promptIds, newIds: this.tokenIds };
    for (const process of this.processors) process(scores, sequence);
    let token = -1;
    let best = -Infinity;
    for (let id = 0; id < scores.length; id++) if (scores[id]! > best) [best, token] = [scores[id]!, id];
    if (token < 0) throw noToken(logits!);
    const logProbability = own[token]!;
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
