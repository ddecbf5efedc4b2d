/**
 * A picture tower and a text tower, compared in one space as CLIP's are (Radford et al. 2021): what a small image encoder is trained in before
 * BLIP-2 bridges from it. The text tower is an OPT, read at its last token. Shapes: B pictures, N texts, T text positions, S image side, E width of
 * the shared space.
 */
import { input, ops, type Tensor } from "../engine/index.js";
import { Linear } from "../nn/layers.js";
import { normal, type Parameters } from "../nn/parameters.js";
import { Opt, type OptConfig } from "./language/opt.js";
import { Blip2VisionModel, type Blip2VisionConfig } from "./vision/blip-2-vision.js";

/** Picture and text towers with their projections, compared in one space. */
export class ContrastiveTowers {
  readonly vision: Blip2VisionModel;
  private readonly text: Opt;
  private readonly visualProjection: Linear;
  private readonly textProjection: Linear;
  readonly logScale: Tensor;

  constructor(vision: Blip2VisionConfig, text: OptConfig, sharedSize: number, parameters: Parameters) {
    const scope = parameters.scope();
    this.vision = new Blip2VisionModel(vision, scope.at("vision_model"));
    this.text = new Opt(text, scope.at("text_model"), { words: normal(0.05), positions: normal(0.02) });
    const [wide, narrow] = [vision.hidden_size, text.hidden_size];
    this.visualProjection = new Linear(scope.at("visual_projection"), wide, sharedSize, {
      bias: false,
      weightInit: normal(wide ** -0.5),
    });
    this.textProjection = new Linear(scope.at("text_projection"), narrow, sharedSize, {
      bias: false,
      weightInit: normal(narrow ** -0.5),
    });
    this.logScale = scope.tensor("logit_scale", [], { kind: "constant", value: Math.log(1 / 0.07) });
  }

  /** pixelValues: [B, 3, S, S] -> the blocks' outputs and unit rows [B, E] from the class position. */
  images(pixelValues: Tensor): { readonly hiddenStates: readonly Tensor[]; readonly embeds: Tensor } {
    const { hiddenStates, lastHiddenState } = this.vision.forward(pixelValues);
    return {
      hiddenStates,
      embeds: ops.l2Normalize(this.visualProjection.forward(ops.select(lastHiddenState, 1, 0))),
    };
  }

  /** ids, mask: int64 [N, T]; ends: int64 [N], each row's last token in the flattened batch -> unit rows [N, E]. */
  texts(ids: Tensor, mask: Tensor, ends: Tensor): Tensor {
    const { lastHiddenState } = this.text.forward({
      inputsEmbeds: this.text.embed(ids),
      attentionMask: mask,
    });
    const [n, t, d] = lastHiddenState.shape;
    const last = ops.gatherRows(ops.reshape(lastHiddenState, [ops.multiplyDims(n!, t!), d!]), ends);
    return ops.l2Normalize(this.textProjection.forward(last));
  }
}

/** What `texts` reads, as inputs. */
export function textInputs(): { readonly ids: Tensor; readonly mask: Tensor; readonly ends: Tensor } {
  return {
    ids: input("text_ids", "int64", ["N", "T"]),
    mask: input("text_mask", "int64", ["N", "T"]),
    ends: input("text_ends", "int64", ["N"]),
  };
}
