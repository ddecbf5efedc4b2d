/** BLIP-2 for TypeScript: the public surface. */
export { convertCheckpoint, type ConvertedCheckpoint, type ConvertOptions } from "./conversion/convert.js";
export { InternalError, InterruptedError, UserError } from "./errors.js";
export type { DType, HostTensor } from "./host-tensor.js";
export { drawAttention, type AttentionPicture } from "./images/draw-attention.js";
export type { ImageSource, RawImage } from "./images/load-image.js";
export type { PatchGrid, PatchMap } from "./images/patch-map.js";
export {
  attentionMaps,
  matchingMaps,
  meanMap,
  peakOf,
  type AttentionChoice,
  type AttentionMap,
  type ImageAttention,
  type MatchingAttention,
  type Peak,
} from "./models/attention-maps.js";
export { Blip2 } from "./generation/blip-2.js";
export type {
  ForwardInputs,
  ForwardOutputs,
  Generated,
  GeneratedText,
  GenerateBatchOptions,
  GenerateOptions,
  GenerateWithoutPictureOptions,
  LoadOptions,
  StreamOptions,
} from "./generation/calls.js";
export type { Chat, ChatOptions } from "./generation/chat.js";
export type { ImageView } from "./generation/image-view.js";
export type { Turn } from "./generation/questions.js";
export type { DownloadReport, HubOptions } from "./hub/hub.js";
export type { RawTensor } from "./raw-tensors.js";
export { Blip2Retriever } from "./retrieval/blip-2-retriever.js";
export type {
  ImageTextPair,
  ImageTextScore,
  RankedText,
  RetrieverForwardInputs,
  RetrieverForwardOutputs,
} from "./retrieval/calls.js";
export type { EncodedImage } from "./retrieval/encoded-image.js";
export type { RetrieverLoadOptions, RetrieverRunOptions } from "./retrieval/options.js";
