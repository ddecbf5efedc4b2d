/** What callers of `Blip2Retriever` give and get. */
import type { HostTensor } from "../host-tensor.js";
import type { ImageSource } from "../images/load-image.js";
import type { RawTensor } from "../raw-tensors.js";
import type { EncodedImage } from "./encoded-image.js";

export interface ImageTextScore {
  /** Contrastive similarity: the cosine of the text and the best of the picture's queries. No temperature divides it. */
  readonly itc: number;
  /** The matching head's logit for "they belong together", the mean over the queries. */
  readonly itmLogit: number;
  /** The head's probability of that: softmax over the mean logits of its two classes. */
  readonly itmProbability: number;
}

/** A text among others, by how near it is to a picture. */
export interface RankedText {
  readonly text: string;
  /** Its place among the texts that were given. */
  readonly index: number;
  /** Contrastive similarity, as in `ImageTextScore`. */
  readonly itc: number;
}

export interface ImageTextPair {
  readonly image: ImageSource | EncodedImage;
  readonly text: string;
}

export interface RetrieverForwardInputs {
  /** [B, 3, S, S] */
  readonly pixelValues: RawTensor;
  /** [N, Q + T]: Q times the image token, then the text; the text alone where the config names no image token. */
  readonly inputIds: RawTensor;
  /** Of the shape of `inputIds`; ones if absent. */
  readonly attentionMask?: RawTensor | undefined;
  /** True: matching, for which N must be B. False (the default): contrast of all pictures with all texts. */
  readonly useImageTextMatchingHead?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** As `Blip2ForImageTextRetrieval` of transformers; all float32. */
export interface RetrieverForwardOutputs {
  /** Contrast: cosines [B, N]. Matching: mean logits [B, 2], "they belong together" second. */
  readonly logitsPerImage: HostTensor;
  /** Its transpose. */
  readonly logitsPerText: HostTensor;
  /** Contrast only: rows of unit length [B, Q, E]. */
  readonly imageEmbeds?: HostTensor;
  /** Contrast only: rows of unit length [N, E], from [CLS]. */
  readonly textEmbeds?: HostTensor;
  /** [B, P, D_img], after the last norm. */
  readonly visionFeatures: HostTensor;
}
