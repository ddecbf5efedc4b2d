/**
 * What the rest of the house knows of a language model: one face for the families, which differ in whether a decoder
 * reads everything, or an encoder reads and a decoder writes. Whoever needs to know more than `kind` belongs
 * into `families.ts`.
 *
 * Shapes: B batch, T new positions, S = past + T positions (of an encoder: all of its positions), E width of words, V
 * vocabulary, H heads, K head size.
 */
import type { Tensor } from "../../engine/index.js";
import type { KeyValues } from "../../nn/attention.js";
import type { Dropout } from "../../nn/dropout.js";

interface Shared {
  /** Width of words and of the soft prompt, E. */
  readonly embeddingSize: number;
  /** V */
  readonly vocabularySize: number;
  /** The longest sequence that it has positions for; `Infinity` where positions are relative. */
  readonly maximumLength: number;
  /** Sizes of the keys and values that a generation keeps, [B, H, S, K] each, per layer of the decoder. */
  readonly cache: { readonly layers: number; readonly heads: number; readonly headSize: number };
  /** The word table's name in the checkpoint. */
  readonly wordTable: string;
  /** Whether the word table is the head too. */
  readonly hasTiedHead: boolean;
  /** Whether anything is dropped while a model is trained through it. */
  readonly hasDropout: boolean;
  /** ids: int64 [B, T] -> [B, T, E]. */
  embed(ids: Tensor): Tensor;
  /** Hidden states ready for the head [B, T, E] -> logits [B, T, V]. */
  logits(hidden: Tensor): Tensor;
}

export interface DecoderOnlyInputs {
  /** [B, T, E]: word embeddings, or what stands in their place. */
  readonly inputsEmbeds: Tensor;
  /** int64 [B, S]: 1 for real positions, over the past and the new ones. */
  readonly attentionMask: Tensor;
  /** Keys and values per layer of the S - T positions before. */
  readonly past?: readonly KeyValues[];
  readonly dropout?: Dropout;
}

export interface DecoderOutput {
  /** [B, T, E], ready for the head. */
  readonly lastHiddenState: Tensor;
  readonly present: readonly KeyValues[];
}

/** One stack reads soft prompt and text and goes on behind them. */
export interface DecoderOnly extends Shared {
  readonly kind: "decoder-only";
  forward(inputs: DecoderOnlyInputs): DecoderOutput;
}

export interface EncoderInputs {
  /** [B, S, E]: word embeddings, or what stands in their place. */
  readonly inputsEmbeds: Tensor;
  /** int64 [B, S]: 1 for real positions. */
  readonly attentionMask: Tensor;
  readonly dropout?: Dropout;
}

export interface DecoderInputs {
  /** [B, T, E] */
  readonly inputsEmbeds: Tensor;
  /** int64 [B, P + T]: 1 for real positions, over the past and the new ones. */
  readonly attentionMask: Tensor;
  /** Per decoder layer, from `encoderKeyValues`. */
  readonly encoder: readonly KeyValues[];
  /** int64 [B, S] */
  readonly encoderMask: Tensor;
  /** Keys and values per layer of the P positions before. */
  readonly past?: readonly KeyValues[];
  readonly dropout?: Dropout;
}

/** An encoder reads soft prompt and text; a decoder writes. */
export interface EncoderDecoder extends Shared {
  readonly kind: "encoder-decoder";
  /** -> [B, S, E]. */
  encode(inputs: EncoderInputs): Tensor;
  /** What the decoder's layers look at, computed once. encoded: [B, S, E] -> per decoder layer. */
  encoderKeyValues(encoded: Tensor): readonly KeyValues[];
  decode(inputs: DecoderInputs): DecoderOutput;
}

export type LanguageModel = DecoderOnly | EncoderDecoder;
