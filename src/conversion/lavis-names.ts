/**
 * From the names in LAVIS's checkpoints to those of Hugging Face's classes, which the rest of this package uses.
 * Nothing is transposed; the only numbers that move are the biases of EVA's attention (`fused-biases.ts`) and
 * the joined projections of CLIP's (`splitProjections`).
 */
import { InternalError, UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import type { LazyTensor } from "../checkpoints/safetensors.js";

/** The first pattern that fits decides. `null`: known, and of no use. */
type Rules = readonly (readonly [pattern: RegExp, replacement: string | null])[];

/** EVA-CLIP's vision transformer, below `vision_model.`. */
const evaRules: Rules = [
  [/^cls_token$/, "embeddings.class_embedding"],
  [/^pos_embed$/, "embeddings.position_embedding"],
  [/^patch_embed\.proj\.(weight|bias)$/, "embeddings.patch_embedding.$1"],
  [/^blocks\.(\d+)\.norm([12])\.(weight|bias)$/, "encoder.layers.$1.layer_norm$2.$3"],
  [/^blocks\.(\d+)\.attn\.qkv\.(weight|bias)$/, "encoder.layers.$1.self_attn.qkv.$2"],
  [/^blocks\.(\d+)\.attn\.([qv])_bias$/, "encoder.layers.$1.self_attn.$2_bias"],
  [/^blocks\.(\d+)\.attn\.proj\.(weight|bias)$/, "encoder.layers.$1.self_attn.projection.$2"],
  [/^blocks\.(\d+)\.mlp\.(fc[12])\.(weight|bias)$/, "encoder.layers.$1.mlp.$2.$3"],
  // Of the classifier that BLIP-2 cuts off.
  [/^(norm|fc_norm|head)\.(weight|bias)$/, null],
];

/** CLIP's, as OpenAI named it. */
const clipRules: Rules = [
  [/^class_embedding$/, "embeddings.class_embedding"],
  [/^positional_embedding$/, "embeddings.position_embedding.weight"],
  [/^conv1\.weight$/, "embeddings.patch_embedding.weight"],
  // The missing "e" is Hugging Face's own spelling.
  [/^ln_pre\.(weight|bias)$/, "pre_layrnorm.$1"],
  [/^ln_post\.(weight|bias)$/, "post_layernorm.$1"],
  [/^transformer\.resblocks\.(\d+)\.ln_([12])\.(weight|bias)$/, "encoder.layers.$1.layer_norm$2.$3"],
  [/^transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$/, "encoder.layers.$1.self_attn.in_proj.$2"],
  [
    /^transformer\.resblocks\.(\d+)\.attn\.out_proj\.(weight|bias)$/,
    "encoder.layers.$1.self_attn.out_proj.$2",
  ],
  [/^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(weight|bias)$/, "encoder.layers.$1.mlp.fc1.$2"],
  [/^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(weight|bias)$/, "encoder.layers.$1.mlp.fc2.$2"],
  [/^proj$/, null],
];

const bridgeRules: Rules = [
  [/\.position_ids$/, null],
  [/^query_tokens$/, "query_tokens"],
  [/^ln_vision\.(weight|bias)$/, "vision_model.post_layernorm.$1"],
  [/^(?:opt|t5)_proj\.(weight|bias)$/, "language_projection.$1"],
  [/^(?:opt|t5)_model\.(.+)$/, "language_model.$1"],
  [/^(vision|text)_proj\.(weight|bias)$/, "$1_projection.$2"],
  [/^itm_head\.(weight|bias)$/, "itm_head.$1"],
  [/^temp$/, "temp"],
  [/^Qformer\.bert\.embeddings\.LayerNorm\.(weight|bias)$/, "qformer.layernorm.$1"],
  [/^Qformer\.bert\.embeddings\.(word|position)_embeddings\.weight$/, "embeddings.$1_embeddings.weight"],
  [
    /^Qformer\.bert\.encoder\.layer\.(\d+)\.(attention|crossattention)\.self\.(query|key|value)\.(weight|bias)$/,
    "qformer.encoder.layer.$1.$2.attention.$3.$4",
  ],
  [
    /^Qformer\.bert\.encoder\.layer\.(\d+)\.((?:(?:attention|crossattention)\.)?(?:intermediate|output)(?:_query)?\.(?:dense|LayerNorm))\.(weight|bias)$/,
    "qformer.encoder.layer.$1.$2.$3",
  ],
  // The decoder is the word table, its bias is stored twice.
  [/^Qformer\.cls\.predictions\.decoder\.(weight|bias)$/, null],
  [
    /^Qformer\.cls\.predictions\.(bias|transform\.(?:dense|LayerNorm)\.(?:weight|bias))$/,
    "cls.predictions.$1",
  ],
];

export type VisionKind = "eva" | "clip";

export interface Renamed {
  readonly tensors: Map<string, LazyTensor>;
  /** Names that are known and of no use. */
  readonly dropped: readonly string[];
  /** Names that no rule knows. */
  readonly unknown: readonly string[];
}

function apply(rules: Rules, name: string): string | null | undefined {
  const rule = rules.find(([pattern]) => pattern.test(name));
  if (rule === undefined) return undefined;
  const [pattern, replacement] = rule;
  return replacement === null ? null : name.replace(pattern, replacement);
}

function rename(
  tensors: ReadonlyMap<string, LazyTensor>,
  newName: (name: string) => string | null | undefined,
): Renamed {
  const renamed: Renamed & { dropped: string[]; unknown: string[] } = {
    tensors: new Map(),
    dropped: [],
    unknown: [],
  };
  for (const [name, tensor] of tensors) {
    const target = newName(name);
    if (target === undefined) renamed.unknown.push(name);
    else if (target === null) renamed.dropped.push(name);
    else renamed.tensors.set(target, tensor);
  }
  return renamed;
}

/** A checkpoint of LAVIS's BLIP-2 classes: bridge, and the parts that it happens to hold. */
export function renameLavis(tensors: ReadonlyMap<string, LazyTensor>): Renamed {
  const vision = visionKindOf([...tensors.keys()], "visual_encoder.");
  const [bias, copy] = ["bias", "decoder.bias"].map((name) => `Qformer.cls.predictions.${name}`) as [
    string,
    string,
  ];
  const words = tensors.get("Qformer.bert.embeddings.word_embeddings.weight")?.dims[0];
  // Where LAVIS grew the word table by its mark [DEC], one of the two biases may still have the old length.
  const takesCopy = tensors.get(bias)?.dims[0] !== words && tensors.get(copy)?.dims[0] === words;
  return rename(tensors, (name) => {
    if (takesCopy && (name === bias || name === copy)) return name === copy ? "cls.predictions.bias" : null;
    if (!name.startsWith("visual_encoder.")) return apply(bridgeRules, name);
    const inner = apply(vision === "clip" ? clipRules : evaRules, name.slice("visual_encoder.".length));
    return typeof inner === "string" ? `vision_model.${inner}` : inner;
  });
}

/** A file of a vision transformer alone (`eva_vit_g.pth`, `clip_vit_L.pth`), whose names may have a prefix. */
export function renameVision(tensors: ReadonlyMap<string, LazyTensor>, kind: VisionKind): Renamed {
  return rename(tensors, (name) => {
    const bare = name.replace(/^(?:visual_encoder|visual)\./, "");
    const inner = apply(kind === "clip" ? clipRules : evaRules, bare);
    return typeof inner === "string" ? `vision_model.${inner}` : inner;
  });
}

/** Which vision transformer the names are of, if any. */
export function visionKindOf(names: readonly string[], prefix = ""): VisionKind | undefined {
  const has = (name: string): boolean => names.includes(prefix + name);
  if (has("conv1.weight") && has("positional_embedding")) return "clip";
  return has("patch_embed.proj.weight") && has("pos_embed") ? "eva" : undefined;
}

/** CLIP's joined projections as three: `in_proj.weight` [3 D, D] -> `q_proj`, `k_proj`, `v_proj` [D, D]. */
export function splitProjections(
  tensors: ReadonlyMap<string, LazyTensor>,
  where: string,
): Map<string, LazyTensor> {
  const result = new Map<string, LazyTensor>();
  for (const [name, tensor] of tensors) {
    const [, path, kind] = /^(.*)\.in_proj\.(weight|bias)$/.exec(name) ?? [];
    if (path === undefined) {
      result.set(name, tensor);
      continue;
    }
    const rows = (tensor.dims[0] ?? 0) / 3;
    if (!Number.isInteger(rows))
      throw new UserError(`${where}: ${name} has ${tensor.dims[0]} rows, not three parts`);
    for (const [i, part] of ["q", "k", "v"].entries()) {
      const dims = [rows, ...tensor.dims.slice(1)];
      const read = async (): Promise<HostTensor> => {
        const whole = await tensor.read();
        const size = whole.data.length / 3;
        if (!Number.isInteger(size)) throw new InternalError(`splitProjections: ${name} is no multiple of 3`);
        return { dtype: tensor.dtype, dims, data: whole.data.slice(i * size, (i + 1) * size) };
      };
      result.set(`${path}.${part}_proj.${kind}`, { dtype: tensor.dtype, dims, read });
    }
  }
  return result;
}
