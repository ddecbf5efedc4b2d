/** BLIP-2 for TypeScript: the public surface. */
export { InternalError, InterruptedError, UserError } from "./errors.js";
export type { DType, HostTensor } from "./host-tensor.js";
export type { ImageSource, RawImage } from "./images/load-image.js";
export {
  Blip2,
  type ForwardInputs,
  type ForwardOutputs,
  type Generated,
  type GenerateBatchOptions,
  type GenerateOptions,
  type LoadOptions,
  type StreamOptions,
} from "./generation/blip-2.js";
export type { RawTensor } from "./generation/raw-tensors.js";
