/** How texts reach the language model in stage 2, in the graph and in the feeds of a batch of it. */
import type { HostTensors, Tensor } from "../../engine/index.js";
import type { SecondStage } from "../../models/blip-2-bridge.js";
import type { Dropout } from "../../nn/dropout.js";
import type { Random } from "../../random.js";

/** What a row is made of. */
export type GivenTexts =
  | {
      readonly caption: string;
      /** In training: draws whatever there is to draw for this row. */
      readonly random?: Random;
    }
  | { readonly statements: readonly string[] };

export interface TextSide {
  /** Of a batch of `count` captions and features [count, P, D_img]. -> scalar. */
  loss(
    bridge: SecondStage,
    features: Tensor,
    count: number | string,
    dropout?: Dropout,
    promptLimit?: number,
  ): Tensor;
  /** int64 tensors by the names of the loss's inputs. */
  feeds(texts: readonly GivenTexts[]): HostTensors;
}
