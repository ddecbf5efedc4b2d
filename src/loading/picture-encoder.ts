/** An image encoder as a store of its features sees it, whoever runs it and with whichever weights. */
import type { HostTensor } from "../host-tensor.js";
import type { RgbImage } from "../images/load-image.js";
import type { PreprocessConfig } from "../images/preprocess.js";

export interface PictureEncoder {
  /** Says in errors whose features they are: the model's folder. */
  readonly path: string;
  /** P. */
  readonly positions: number;
  /** D_img. */
  readonly width: number;
  /** Pictures are squares of so many pixels. */
  readonly side: number;
  readonly preprocessing: PreprocessConfig;
  /** Of config, weights and precision: of all that the features of pixels follow from. */
  digest(): Promise<string>;
  /** Makes ready. `load` gives the decoded picture at a place. */
  open(load: (place: number) => Promise<RgbImage>): Promise<OpenPictureEncoder>;
}

export interface OpenPictureEncoder {
  /** Features before the last norm, float32 [B, P, D_img]. */
  features(places: readonly number[], signal?: AbortSignal): Promise<HostTensor>;
  release(): Promise<void>;
}
