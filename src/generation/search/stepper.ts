/** What a search needs of a language model: logits after a prompt, and after one more token. */
import type { HostTensor } from "../../host-tensor.js";

/** What stands before the first new token. Shapes: B prompts, Q soft positions, T tokens, E width. */
export interface Prompt {
  /** float32 [B, Q, E], before the tokens; Q may be 0. */
  readonly embeddings: HostTensor;
  /** int64 [B, T], padded on the left; T may be 0. */
  readonly ids: HostTensor;
  /** int64 [B, Q + T]: 1 for real positions. */
  readonly mask: HostTensor;
  /** The id that stands for a soft position where ids are listed; a repetition penalty counts it as seen. */
  readonly softId?: number | undefined;
  /** The id that an encoder-decoder's text starts from, which alone counts as seen there; others have none. */
  readonly decoderStartId?: number | undefined;
}

/** What a generation may be begun with. */
export interface StepperOptions {
  /** Yield hidden states beside the logits. Default: false, and then they never leave the worker. */
  readonly states?: boolean;
}

/** One running generation. It holds memory until it is disposed of, which must also happen after errors. */
export interface Stepper extends AsyncDisposable {
  /** Reads the prompt. -> the next token's logits of each prompt, B rows of V. */
  prefill(prompt: Prompt, signal?: AbortSignal): Promise<readonly Float32Array[]>;
  /**
   * Appends a token to each continued sequence. Row n of the answer continues row `parents[n]` of the
   * last one by `tokens[n]`: rows may be repeated (beams), reordered and left out (finished).
   */
  advance(
    parents: readonly number[],
    tokens: readonly number[],
    signal?: AbortSignal,
  ): Promise<readonly Float32Array[]>;

  /**
   * Of the last run, for each row of its logits: the last hidden states [E] of the row's new positions, padding
   * left out. Only where the generation was begun with `states`.
   */
  readonly states?: readonly (readonly Float32Array[])[] | undefined;
}
