/** The sizes of a model, read off the shapes of its tensors; what shapes do not tell comes from published models or from the caller. */
import { UserError } from "../errors.js";
import type { JsonObject } from "../files/json-file.js";
import type { VisionKind } from "./lavis-names.js";

export type Shapes = ReadonlyMap<string, { readonly dims: readonly number[] }>;

/** What shapes do not tell. */
export interface SizeHints {
  /** Attention heads of the vision transformer. */
  readonly visionHeads?: number | undefined;
  /** Blocks of the vision transformer to keep; BLIP-2 uses all but the last of the published ones. */
  readonly visionLayers?: number | undefined;
  /** Attention heads of the Q-Former. */
  readonly qformerHeads?: number | undefined;
}

/** Published vision transformers by kind and width: attention heads, and blocks without the last. */
const published: Readonly<Record<VisionKind, Readonly<Record<number, { heads: number; layers: number }>>>> = {
  eva: { 1408: { heads: 16, layers: 39 } },
  clip: { 1024: { heads: 16, layers: 23 }, 768: { heads: 12, layers: 11 } },
};

/** Heads of BERT's sizes, by width. */
const bertHeads: Readonly<Record<number, number>> = { 768: 12, 1024: 16 };

function dimsOf(shapes: Shapes, name: string, rank: number, where: string): readonly number[] {
  const dims = shapes.get(name)?.dims;
  if (dims?.length !== rank)
    throw new UserError(
      `${where}: ${name} of ${rank} axes is required to tell the model's sizes, got ${dims === undefined ? "none" : `[${dims.join(", ")}]`}`,
    );
  return dims;
}

/** The numbers in place of `#` among the names, one more than the largest. */
function countOf(shapes: Shapes, prefix: string): number {
  let count = 0;
  for (const name of shapes.keys()) {
    if (!name.startsWith(prefix)) continue;
    const index = Number.parseInt(name.slice(prefix.length), 10);
    if (index >= count) count = index + 1;
  }
  return count;
}

/** How many blocks of a file of `kind` alone belong to BLIP-2. */
export function keptVisionLayers(shapes: Shapes, kind: VisionKind, hints: SizeHints, where: string): number {
  const { width } = visionWidth(shapes, kind, where);
  const present = countOf(shapes, "vision_model.encoder.layers.");
  const kept = hints.visionLayers ?? published[kind][width]?.layers;
  if (kept === undefined) {
    throw new UserError(
      `${where}: no published vision transformer has the width ${width}; say with --vision-layers (visionLayers) how many of its ${present} blocks to keep`,
    );
  }
  if (kept > present)
    throw new UserError(
      `${where}: has ${present} blocks, ${kept} are required; the file may be cut or of another model`,
    );
  return kept;
}

function visionWidth(shapes: Shapes, kind: VisionKind, where: string): { width: number; patch: number } {
  const [width, channels, patch, other] = dimsOf(
    shapes,
    "vision_model.embeddings.patch_embedding.weight",
    4,
    where,
  );
  if (channels !== 3 || patch !== other)
    throw new UserError(
      `${where}: square patches of 3 colours are required, got ${kind} with [${channels}, ${patch}, ${other}]`,
    );
  return { width: width!, patch: patch! };
}

/** `vision_config`. In a BLIP-2 folder CLIP's depth counts the block that is cut off, as this package's readers expect. */
export function visionConfig(shapes: Shapes, kind: VisionKind, hints: SizeHints, where: string): JsonObject {
  const { width, patch } = visionWidth(shapes, kind, where);
  const heads = hints.visionHeads ?? published[kind][width]?.heads;
  if (heads === undefined) {
    throw new UserError(
      `${where}: no published vision transformer has the width ${width}; say with --vision-heads (visionHeads) how many attention heads it has`,
    );
  }
  const positions =
    kind === "eva"
      ? dimsOf(shapes, "vision_model.embeddings.position_embedding", 3, where)[1]!
      : dimsOf(shapes, "vision_model.embeddings.position_embedding.weight", 2, where)[0]!;
  const side = Math.sqrt(positions - 1);
  if (!Number.isInteger(side))
    throw new UserError(`${where}: ${positions} positions are no square of patches and one more`);
  const layers = countOf(shapes, "vision_model.encoder.layers.");
  const [inner] = dimsOf(shapes, "vision_model.encoder.layers.0.mlp.fc1.weight", 2, where);
  const common = {
    hidden_size: width,
    intermediate_size: inner!,
    num_attention_heads: heads,
    image_size: side * patch,
    patch_size: patch,
  };
  return kind === "eva"
    ? {
        model_type: "blip_2_vision_model",
        ...common,
        num_hidden_layers: layers,
        hidden_act: "gelu",
        layer_norm_eps: 1e-6,
        qkv_bias: shapes.has("vision_model.encoder.layers.0.self_attn.qkv.bias"),
      }
    : {
        model_type: "clip_vision_model",
        ...common,
        num_hidden_layers: layers + 1,
        hidden_act: "quick_gelu",
        layer_norm_eps: 1e-5,
      };
}

/** `qformer_config`, and what the BLIP-2 config says beside it. */
export function bridgeConfig(
  shapes: Shapes,
  hints: SizeHints,
  where: string,
): { readonly qformer: JsonObject; readonly queries: number } {
  const [, queries, width] = dimsOf(shapes, "query_tokens", 3, where);
  const heads = hints.qformerHeads ?? bertHeads[width!];
  if (heads === undefined) {
    throw new UserError(
      `${where}: no published Q-Former has the width ${width}; say with --qformer-heads (qformerHeads) how many attention heads it has`,
    );
  }
  const prefix = "qformer.encoder.layer.";
  const layers = countOf(shapes, prefix);
  const crossed = Array.from({ length: layers }, (_, i) => i).filter((i) =>
    shapes.has(`${prefix}${i}.crossattention.attention.key.weight`),
  );
  const frequency = crossed[1] ?? layers;
  if (crossed[0] !== 0 || crossed.some((layer, i) => layer !== i * frequency))
    throw new UserError(`${where}: cross-attention in layers ${crossed.join(", ")} follows no frequency`);
  const hasText = shapes.has(`${prefix}0.intermediate.dense.weight`);
  const [inner] = dimsOf(shapes, `${prefix}0.intermediate_query.dense.weight`, 2, where);
  const [, imageWidth] = dimsOf(shapes, `${prefix}0.crossattention.attention.key.weight`, 2, where);
  const words = shapes.get("embeddings.word_embeddings.weight")?.dims[0];
  const positions = shapes.get("embeddings.position_embeddings.weight")?.dims[0];
  return {
    queries: queries!,
    qformer: {
      model_type: "blip_2_qformer",
      vocab_size: words ?? 30522,
      hidden_size: width!,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      intermediate_size: inner!,
      hidden_act: "gelu",
      hidden_dropout_prob: 0.1,
      attention_probs_dropout_prob: 0.1,
      max_position_embeddings: positions ?? 512,
      layer_norm_eps: 1e-12,
      cross_attention_frequency: frequency,
      encoder_hidden_size: imageWidth!,
      use_qformer_text_input: hasText,
    },
  };
}
