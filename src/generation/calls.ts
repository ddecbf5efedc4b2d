/** What callers of `Blip2` give and get. */
import type { HostTensor } from "../host-tensor.js";
import type { HubOptions } from "../hub/hub.js";
import type { ImageSource } from "../images/load-image.js";
import type { LoadingHooks } from "../loading/frozen-weights.js";
import type { Precision } from "../loading/precision.js";
import type { RawTensor } from "../raw-tensors.js";
import type { ImageView } from "./image-view.js";
import type { GenerateSettings } from "./options.js";

export interface LoadOptions extends HubOptions, LoadingHooks {
  /**
   * How linear layers are held and multiplied. "int8" and "int4" make a quantised copy of the weights beside the
   * model, once; `models/precision.ts` says what is in how many bits. Default: "fp32".
   */
  readonly precision?: Precision | undefined;
  /** Default: the CPUs that this process may use. */
  readonly threads?: number | undefined;
  /**
   * Side in pixels to which pictures are resized. Default: preprocessor_config.json's. Learned positions are
   * interpolated where the model has them for another size.
   */
  readonly imageSize?: number | undefined;
  /** True: nothing is loaded but what `attention` needs, so no language model. Default: false. */
  readonly attentionOnly?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface GenerateOptions extends GenerateSettings {
  /** A picture, or one that this model has looked at. */
  readonly image: ImageSource | ImageView;
  /** Stands before the answer, such as "Question: what is this? Answer:". Not part of the text. Default: none. */
  readonly prompt?: string | undefined;
}

export interface GenerateBatchOptions extends GenerateSettings {
  readonly images: readonly (ImageSource | ImageView)[];
  /** One prompt for all pictures ... */
  readonly prompt?: string | undefined;
  /** ... or one for each. */
  readonly prompts?: readonly (string | undefined)[] | undefined;
}

export interface GenerateWithoutPictureOptions extends GenerateSettings {
  /** What each text goes on from. */
  readonly prompts: readonly string[];
  /** One for each prompt: what stands in the place of a picture. Default: nothing stands there. */
  readonly descriptions?: readonly string[] | undefined;
}

/** Streams are one text, and come from any search but that with beams, which knows no text before its end. */
export type StreamOptions = Omit<GenerateOptions, "numBeams" | "numReturnSequences"> & {
  readonly numBeams?: 1 | undefined;
  readonly numReturnSequences?: 1 | undefined;
};

export interface GeneratedText {
  /** Without the prompt, special tokens, stop strings and white space at its ends. */
  readonly text: string;
  /** New ids, the end token or those that spell a stop string included if there are such. */
  readonly tokenIds: readonly number[];
  /** The natural logarithm of the probability that the model gives to `tokenIds`, whatever the search made of it. */
  readonly logProbability: number;
  /** The same for each of `tokenIds`. */
  readonly tokenLogProbabilities: readonly number[];
  /** What texts are ranked by: in beam search by length and penalties too, otherwise `logProbability`. */
  readonly score: number;
}

/** The best text. */
export interface Generated extends GeneratedText {
  /** With `numReturnSequences` above 1: all of them, best first. */
  readonly sequences?: readonly GeneratedText[];
}

/** Q queries, T text positions, U positions of an encoder-decoder's output, V vocabulary, P image positions, D widths. */
export interface ForwardInputs {
  /** [B, 3, S, S] */
  readonly pixelValues: RawTensor;
  /** [B, Q + T]: Q times the image token, then the text; the text alone where the config names no image token. */
  readonly inputIds: RawTensor;
  /** Of the shape of `inputIds`; ones if absent. */
  readonly attentionMask?: RawTensor | undefined;
  /** Of the shape of `inputIds`, or [B, U] with an encoder-decoder; -100 takes no part in the loss. */
  readonly labels?: RawTensor | undefined;
  /** [B, U], for an encoder-decoder. Default: the labels behind a start token. */
  readonly decoderInputIds?: RawTensor | undefined;
  /** Of the shape of `decoderInputIds`; ones if absent. */
  readonly decoderAttentionMask?: RawTensor | undefined;
  /** Longest text in tokens where the model has no positions that bound it. Default: 2,048. */
  readonly maxPromptTokens?: number | undefined;
  /** Bytes that the call may take beside the weights, by an estimate; what would take more is refused. Default: 8 GiB. */
  readonly maxMemory?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** As `Blip2ForConditionalGeneration` of transformers; all float32. */
export interface ForwardOutputs {
  /** [B, Q + T, V], or [B, U, V] */
  readonly logits: HostTensor;
  /** Scalar: mean cross-entropy of the labels. Only with labels. */
  readonly loss?: HostTensor;
  /** [B, P, D_img], after the last norm. */
  readonly visionFeatures: HostTensor;
  /** [B, Q, D] */
  readonly queryOutput: HostTensor;
  /** The soft visual prompt, [B, Q, L]. */
  readonly languageProjection: HostTensor;
}
