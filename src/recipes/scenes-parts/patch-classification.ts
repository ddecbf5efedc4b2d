/**
 * A classification of patches for the training of the vision transformer: what kind, colour and size of thing
 * covers the middle of each. The contrastive loss is read off at the class position and leaves open what the
 * others hold, and the Q-Former will look at just those. Letters: B pictures, P patches, N = B * P.
 */
import { constant, input, integer, ops, type HostTensors, type Tensor } from "../../engine/index.js";
import type { Random } from "../../random.js";
import type { SceneRecord, WorldDescription } from "../../data/scenes/read.js";
import { int64Tensor } from "../../host-tensor.js";
import type { Blip2VisionConfig } from "../../models/vision/blip-2-vision.js";
import { LayerNorm, Linear } from "../../nn/layers.js";
import type { Parameters } from "../../nn/parameters.js";
import { crossEntropy, ignoreIndex } from "../../objectives/cross-entropy.js";
import type { SeenPairs } from "./seen-pairs.js";

/** Share of empty patches that are classified: there are far more of them than of covered ones. */
const emptyShare = 0.15;

/**
 * For each patch of each picture the classes of what covers its middle: int64 [B * P] per question. 0 stands
 * for nothing there, which only some empty patches are asked about. `colorless` says of each picture whether its
 * colours are out of the question.
 */
export function patchLabels(
  scenes: readonly SceneRecord[],
  world: WorldDescription,
  { image_size, patch_size }: Blip2VisionConfig,
  random: Random,
  colorless: readonly boolean[] = [],
): HostTensors {
  const grid = image_size / patch_size;
  const perPixel = world.picture_size / image_size;
  const labels: Record<"kind" | "color" | "size", number[]> = { kind: [], color: [], size: [] };
  for (const [i, { objects }] of scenes.entries()) {
    for (let patch = 0; patch < grid * grid; patch++) {
      const x = ((patch % grid) + 0.5) * patch_size * perPixel;
      const y = (Math.floor(patch / grid) + 0.5) * patch_size * perPixel;
      // Objects are drawn in order, so of two that overlap the later one is seen.
      const seen = objects.findLast(
        (object) =>
          Math.max(Math.abs(object.x - x), Math.abs(object.y - y)) <= world.size_pixels[object.size]! / 2,
      );
      const nothing = random.chance(emptyShare) ? 0 : ignoreIndex;
      labels.kind.push(seen === undefined ? nothing : 1 + world.kinds.indexOf(seen.kind));
      const color = seen === undefined ? nothing : 1 + world.colors.indexOf(seen.color);
      labels.color.push(colorless[i] === true ? ignoreIndex : color);
      labels.size.push(seen === undefined ? nothing : 1 + world.sizes.indexOf(seen.size));
    }
  }
  return Object.fromEntries(
    Object.entries(labels).map(([name, values]) => [`patch_${name}`, int64Tensor(values, [values.length])]),
  );
}

/** Classifies each patch by kind, colour and size of what covers it. features: [B, 1 + P, D]. */
export function patchLoss(
  features: Tensor,
  world: WorldDescription,
  vision: Blip2VisionConfig,
  parameters: Parameters,
  seen: SeenPairs,
): { readonly loss: Tensor; readonly metrics: Record<string, Tensor> } {
  const [b, positions, d] = features.shape as readonly number[];
  const rows = b! * (positions! - 1);
  const head = parameters.scope("patch_head");
  const norm = new LayerNorm(head.at("norm"), vision.hidden_size, vision.layer_norm_eps);
  const patches = norm.forward(ops.reshape(ops.slice(features, 1, 1, positions! - 1), [rows, d!]));
  const metrics: Record<string, Tensor> = {};
  const questions = { kind: world.kinds, color: world.colors, size: world.sizes };
  const labelsOf = {
    kind: input("patch_kind", "int64", [rows]),
    color: input("patch_color", "int64", [rows]),
    size: input("patch_size", "int64", [rows]),
  };
  const leftOut = {
    kind: ops.gatherRows(constant(seen.kindsByColor()), ops.maximum(labelsOf.color, integer(0))),
    color: ops.gatherRows(constant(seen.colorsByKind()), ops.maximum(labelsOf.kind, integer(0))),
  };
  const losses = (Object.keys(questions) as (keyof typeof questions)[]).map((name) => {
    const labels = labelsOf[name];
    const plain = new Linear(head.at(name), vision.hidden_size, questions[name].length + 1).forward(patches);
    const logits = name === "size" ? plain : ops.add(plain, leftOut[name]);
    const covered = ops.cast(ops.less(integer(0), labels), "float32");
    const right = ops.cast(ops.equal(ops.argmax(logits), labels), "float32");
    metrics[`patch ${name} accuracy`] = ops.div(
      ops.reduceSum(ops.mul(right, covered)),
      ops.reduceSum(covered),
    );
    return crossEntropy(logits, labels);
  });
  return { loss: losses.reduce((a, c) => ops.add(a, c)), metrics };
}
