/** The `generate` entries of the golden models, and the ids that transformers would return for our results. */
import { readFileSync } from "node:fs";
import type { GeneratedSequence, SearchSettings } from "../../src/generation/search/search.js";
import type { Prompt } from "../../src/generation/search/stepper.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../../src/host-tensor.js";

export interface GoldenRun {
  readonly name: string;
  readonly prompt: string;
  readonly options: Readonly<Record<string, number | boolean | string>>;
}

interface Listed {
  readonly generate: readonly GoldenRun[];
  readonly generate_defaults: { readonly eos_token_id: number; readonly pad_token_id: number };
}

export function goldenRuns(name: string, group = "models"): Listed {
  return JSON.parse(readFileSync(`test/golden/${group}/${name}.json`, "utf8")) as Listed;
}

/** Options of transformers' `generate` as settings of a search. */
export function settingsOf({ options }: GoldenRun, endId: number): SearchSettings {
  return {
    maxNewTokens: Number(options["max_new_tokens"]),
    minNewTokens: Number(options["min_new_tokens"] ?? 0),
    numBeams: Number(options["num_beams"]),
    numReturnSequences: Number(options["num_return_sequences"] ?? 1),
    lengthPenalty: Number(options["length_penalty"] ?? 1),
    earlyStopping: (options["early_stopping"] ?? false) as boolean | "never",
    repetitionPenalty: Number(options["repetition_penalty"] ?? 1),
    endIds: [endId],
  };
}

/** A prompt of ids without anything soft. */
export function idPrompt(ids: HostTensor, mask: HostTensor, width: number): Prompt {
  return { embeddings: float32Tensor([], [ids.dims[0]!, 0, width]), ids, mask };
}

/** A prompt of embeddings alone. */
export function softPrompt(embeddings: HostTensor, mask: HostTensor): Prompt {
  return { embeddings, ids: int64Tensor([], [embeddings.dims[0]!, 0]), mask };
}

/** Sequences behind their prompts as one matrix, filled with `pad` on the right: what transformers returns. */
export function asMatrix(
  prompts: readonly (readonly number[])[],
  results: readonly (readonly GeneratedSequence[])[],
  pad: number,
): number[][] {
  const rows = results.flatMap((sequences, b) =>
    sequences.map(({ tokenIds }) => [...prompts[b]!, ...tokenIds]),
  );
  const length = Math.max(...rows.map((row) => row.length));
  return rows.map((row) => [...row, ...Array<number>(length - row.length).fill(pad)]);
}

/** The numbers of a matrix, row by row. */
export function rowsOf({ data, dims }: HostTensor): number[][] {
  const width = dims[1]!;
  return Array.from({ length: dims[0]! }, (_, b) =>
    Array.from({ length: width }, (_, t) => Number(data[b * width + t])),
  );
}
