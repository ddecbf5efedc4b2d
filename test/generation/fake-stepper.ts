/** A stepper without a network, for tests of the searches. */
import { generateTokens } from "../../src/generation/search/generate.js";
import type { SearchSettings } from "../../src/generation/search/search.js";
import type { Stepper } from "../../src/generation/search/stepper.js";
import { float32Tensor, int64Tensor } from "../../src/host-tensor.js";

/** Greedy search; id 0 ends a text. */
export const usual: SearchSettings = {
  maxNewTokens: 6,
  minNewTokens: 0,
  numBeams: 1,
  numReturnSequences: 1,
  lengthPenalty: 1,
  earlyStopping: false,
  repetitionPenalty: 1,
  endIds: [0],
};

/** A language model without a network: logits are a fixed, wild function of the ids so far. */
export const logitsOf = (seed: number, ids: readonly number[], vocabulary: number): Float32Array =>
  Float32Array.from({ length: vocabulary }, (_, token) => {
    let hash = (seed + 1) * 2654435761;
    for (const id of [...ids, -1 - token]) hash = Math.imul(hash ^ (id + 0x9e37), 0x85ebca6b) ^ (hash >>> 13);
    return ((hash >>> 8) % 10_000) / 2_000;
  });

/** Hidden states as wild as the logits: a fixed function of the ids up to a position. */
export const stateOf = (seed: number, ids: readonly number[]): Float32Array =>
  logitsOf(seed + 77, ids, 5).map((value) => value - 1.5);

export class FakeStepper implements Stepper {
  disposals = 0;
  states: readonly (readonly Float32Array[])[] | undefined;
  private sequences: readonly (readonly number[])[] = [];

  constructor(
    private readonly seed: number,
    private readonly vocabulary: number,
    private readonly onAdvance: () => void = () => {},
    private readonly yieldsStates = false,
  ) {}

  private async logits(isPrompt = false): Promise<readonly Float32Array[]> {
    if (this.yieldsStates) {
      this.states = this.sequences.map((ids) =>
        isPrompt ? ids.map((_, t) => stateOf(this.seed, ids.slice(0, t + 1))) : [stateOf(this.seed, ids)],
      );
    }
    return this.sequences.map((ids) => logitsOf(this.seed, ids, this.vocabulary));
  }

  prefill({ ids }: { ids: { dims: readonly number[]; data: ArrayLike<unknown> } }) {
    const [batch, length] = ids.dims as [number, number];
    this.sequences = Array.from({ length: batch }, (_, b) =>
      Array.from({ length }, (_, t) => Number(ids.data[b * length + t])),
    );
    return this.logits(true);
  }

  advance(parents: readonly number[], tokens: readonly number[]) {
    this.onAdvance();
    this.sequences = parents.map((parent, n) => [...this.sequences[parent]!, tokens[n]!]);
    return this.logits();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.disposals++;
  }
}

export const promptOf = (rows: readonly (readonly number[])[]) => {
  const dims = [rows.length, rows[0]!.length];
  return {
    embeddings: float32Tensor([], [rows.length, 0, 1]),
    ids: int64Tensor(rows.flat(), dims),
    mask: int64Tensor(Array<number>(dims[0]! * dims[1]!).fill(1), dims),
  };
};

export const find = (
  seed: number,
  rows: readonly (readonly number[])[],
  vocabulary: number,
  settings: SearchSettings,
) =>
  generateTokens(
    new FakeStepper(seed, vocabulary, undefined, settings.contrastive !== undefined),
    promptOf(rows),
    settings,
  );
