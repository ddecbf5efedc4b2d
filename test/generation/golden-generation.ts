/** The golden numbers of reference/generation.py. */
import { readFileSync } from "node:fs";
import { openSafetensors } from "../../src/checkpoints/safetensors.js";
import type { HostTensor } from "../../src/host-tensor.js";

/** Options of transformers' `generate`. */
export interface GoldenOptions {
  readonly max_new_tokens?: number;
  readonly min_new_tokens?: number;
  readonly num_beams?: number;
  readonly num_return_sequences?: number;
  readonly length_penalty?: number;
  readonly early_stopping?: boolean;
  readonly repetition_penalty?: number;
  readonly no_repeat_ngram_size?: number;
  readonly bad_words_ids?: readonly (readonly number[])[];
  readonly temperature?: number;
  readonly top_k?: number;
  readonly top_p?: number;
  readonly penalty_alpha?: number;
}

export interface GoldenProcessors {
  readonly prompt_length: number;
  readonly eos_token_id: number;
  readonly runs: readonly { readonly name: string; readonly options: GoldenOptions; readonly keep: number }[];
}

export interface GoldenSearches {
  readonly runs: readonly {
    readonly name: string;
    readonly model: string;
    readonly prompt: "left" | "embeds";
    readonly options: GoldenOptions;
    readonly ids: readonly (readonly number[])[];
  }[];
}

export async function goldenGeneration<Info>(
  name: string,
): Promise<{ readonly info: Info; readonly tensors: ReadonlyMap<string, HostTensor> }> {
  const path = `test/golden/generation/${name}`;
  return {
    info: JSON.parse(readFileSync(`${path}.json`, "utf8")) as Info,
    tensors: await (await openSafetensors(`${path}.safetensors`)).readAll(),
  };
}
