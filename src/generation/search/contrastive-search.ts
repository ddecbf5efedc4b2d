/**
 * Contrastive search (Su et al. 2022): of the most likely tokens, the one that balances its probability against how
 * much its hidden state resembles those of the text before. What stands before includes the soft prompt.
 *
 * A candidate's state is known only once the language model has read the candidate. So all candidates are rows of
 * one step, and the step after continues the chosen one: one step per token, as in the other searches, of
 * `topK` rows instead of one. The stepper yields the states; searches that do not ask for them pay nothing.
 */
import { InternalError } from "../../errors.js";
import { logSoftmax, type LogitProcessor } from "./logits.js";
import { processorsOf } from "./processors.js";
import {
  noToken,
  ownLogProbabilities,
  type Contrastive,
  type Continuation,
  type GeneratedSequence,
  type Search,
  type SearchSettings,
} from "./search.js";

interface Candidate {
  readonly token: number;
  /** Of the processed distribution. */
  readonly probability: number;
  /** Of the model's own. */
  readonly logProbability: number;
}

export class ContrastiveSearch implements Search {
  private readonly processors: readonly LogitProcessor[];
  private readonly tokenIds: number[] = [];
  private readonly tokenLogProbabilities: number[] = [];
  private logProbability = 0;
  /** States of what stands before, of unit length. */
  private readonly context: Float32Array[] = [];
  /** What the rows under way try; nothing before the prompt has been read. */
  private candidates: readonly Candidate[] | undefined;

  constructor(
    private readonly settings: SearchSettings,
    private readonly contrastive: Contrastive,
    private readonly promptIds: readonly number[],
  ) {
    this.processors = processorsOf(settings);
  }

  next(
    logits: readonly Float32Array[],
    states?: readonly (readonly Float32Array[])[],
  ): readonly Continuation[] {
    if (states === undefined) throw new InternalError("contrastive search: needs the states of its rows");
    let parent = 0;
    if (this.candidates === undefined) {
      this.context.push(...states[0]!.map(unitLength));
    } else {
      const vectors = states.map((positions) => unitLength(positions.at(-1)!));
      parent = this.choose(this.candidates, vectors);
      const { token, logProbability } = this.candidates[parent]!;
      this.context.push(vectors[parent]!);
      this.tokenIds.push(token);
      this.tokenLogProbabilities.push(logProbability);
      this.logProbability += logProbability;
      const { endIds, maxNewTokens, isStopped } = this.settings;
      const isFull = this.tokenIds.length >= maxNewTokens;
      if (isFull || endIds.includes(token) || isStopped?.(this.tokenIds)) return [];
    }
    this.candidates = this.propose(logits[parent]!);
    return this.candidates.map(({ token }) => ({ parent, token }));
  }

  /** The most likely tokens, most likely first; of equals, the first. */
  private propose(logits: Float32Array): readonly Candidate[] {
    const scores = logits.slice();
    const sequence = { promptIds: this.promptIds, newIds: this.tokenIds };
    for (const process of this.processors) process(scores, sequence);
    const processed = logSoftmax(scores);
    const own = ownLogProbabilities(logits);
    const ids: number[] = [];
    for (let id = 0; id < processed.length; id++) {
      if (!(processed[id]! > -Infinity)) continue;
      let place = ids.length;
      while (place > 0 && processed[ids[place - 1]!]! < processed[id]!) place--;
      if (place < this.contrastive.topK) ids.splice(place, 0, id);
      if (ids.length > this.contrastive.topK) ids.pop();
    }
    if (ids.length === 0) throw noToken(logits);
    return ids.map((token) => ({
      token,
      probability: Math.exp(processed[token]!),
      logProbability: own[token]!,
    }));
  }

  private choose(candidates: readonly Candidate[], vectors: readonly Float32Array[]): number {
    const { penaltyAlpha } = this.contrastive;
    let [chosen, best] = [0, -Infinity];
    for (const [row, { probability }] of candidates.entries()) {
      let resemblance = -Infinity;
      for (const before of this.context) resemblance = Math.max(resemblance, dot(before, vectors[row]!));
      const value = (1 - penaltyAlpha) * probability - penaltyAlpha * resemblance;
      if (value > best) [chosen, best] = [row, value];
    }
    return chosen;
  }

  get results(): readonly GeneratedSequence[] {
    const { tokenIds, tokenLogProbabilities, logProbability } = this;
    return [{ tokenIds, tokenLogProbabilities, logProbability, score: logProbability }];
  }
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

function unitLength(vector: Float32Array): Float32Array {
  const length = Math.sqrt(dot(vector, vector));
  return vector.map((value) => value / length);
}
