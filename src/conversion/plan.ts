/**
 * What a conversion will write, worked out from names and shapes before any number is read: the Hugging Face class, its
 * config.json, and where each of its tensors comes from.
 */
import { UserError } from "../errors.js";
import { quoted } from "../quoted.js";
import { fuseBiases } from "../checkpoints/fused-biases.js";
import type { JsonObject } from "../files/json-file.js";
import type { LazyTensor } from "../checkpoints/safetensors.js";
import { renameLavis, renameVision, splitProjections, visionKindOf, type VisionKind } from "./lavis-names.js";
import { openCheckpoint, type Checkpoint } from "./open-checkpoint.js";
import { bridgeConfig, keptVisionLayers, visionConfig, type SizeHints } from "./sizes.js";

export interface ConversionSources {
  /** A checkpoint of LAVIS, a vision transformer's file, or a Hugging Face folder or file. */
  readonly input: string;
  /** A vision transformer's file or folder, where `input` holds none. */
  readonly vision?: string | undefined;
  /** A folder of OPT or T5, where `input` needs one. */
  readonly languageModel?: string | undefined;
}

export interface ConversionPlan {
  /** Whose layout the input has; a file of a vision transformer alone is "lavis" too. */
  readonly layout: "lavis" | "huggingface";
  readonly architecture: string;
  readonly config: JsonObject;
  readonly tensors: ReadonlyMap<string, LazyTensor>;
  /** Files that are read. */
  readonly read: readonly string[];
  /** What the files hold and the folder will not: tensors by their old names, and other entries. */
  readonly leftOut: readonly string[];
  /** A folder whose small files (tokenizer, preprocessor) belong to the model. */
  readonly companions?: string;
}

/** LAVIS normalises the image features with this epsilon; the config's own key speaks of the blocks. */
const lavisPostNormEpsilon = 1e-5;

/** Works out the conversion. Throws `UserError` naming what is missing, unknown, or not derivable. */
export async function planConversion(sources: ConversionSources, hints: SizeHints): Promise<ConversionPlan> {
  const input = await openCheckpoint(sources.input);
  const names = [...input.tensors.keys()];
  if (names.some((name) => /^(Qformer|visual_encoder|ln_vision)\./.test(name)))
    return planLavis(input, sources, hints);
  for (const option of ["vision", "languageModel"] as const) {
    if (sources[option] !== undefined)
      throw new UserError(
        `${input.path}: is no checkpoint of LAVIS, so ${sources[option]} has no place in it`,
      );
  }
  for (const prefix of ["", "visual.", "visual_encoder."]) {
    const kind = visionKindOf(names, prefix);
    if (kind !== undefined) return planVision(input, kind, hints);
  }
  return planHuggingFace(input);
}

interface VisionPart {
  readonly kind: VisionKind;
  readonly tensors: Map<string, LazyTensor>;
  readonly leftOut: readonly string[];
  readonly path: string;
}

/** The vision transformer of a file of its own, under `vision_model.`, cut as BLIP-2 cuts it. */
function visionPart(source: Checkpoint, hints: SizeHints): VisionPart {
  const names = [...source.tensors.keys()];
  const kind = ["", "visual.", "visual_encoder."].map((prefix) => visionKindOf(names, prefix)).find(Boolean);
  if (kind === undefined)
    throw new UserError(`${source.path}: holds no vision transformer under the names of EVA-CLIP or CLIP`);
  const { tensors, dropped, unknown } = renameVision(source.tensors, kind);
  const whole = partsOf(tensors, kind, source.path);
  const kept = keptVisionLayers(whole, kind, hints, source.path);
  const cut: string[] = [];
  for (const name of whole.keys()) {
    const layer = /^vision_model\.encoder\.layers\.(\d+)\./.exec(name)?.[1];
    if (layer !== undefined && Number(layer) >= kept) {
      cut.push(name);
      whole.delete(name);
    }
  }
  return {
    kind,
    tensors: whole,
    leftOut: [...dropped, ...unknown, ...cut, ...source.leftOut],
    path: source.path,
  };
}

/** Biases and projections as Hugging Face stores them. */
function partsOf(
  tensors: ReadonlyMap<string, LazyTensor>,
  kind: VisionKind | undefined,
  where: string,
): Map<string, LazyTensor> {
  return kind === "clip" ? splitProjections(tensors, where) : fuseBiases(tensors, where);
}

async function planLavis(
  input: Checkpoint,
  sources: ConversionSources,
  hints: SizeHints,
): Promise<ConversionPlan> {
  const { path } = input;
  const renamed = renameLavis(input.tensors);
  if (renamed.unknown.length > 0) {
    throw new UserError(
      `${path}: ${renamed.unknown.length} of its tensors are not of LAVIS's BLIP-2, and are not left out silently:\n` +
        renamed.unknown
          .slice(0, 20)
          .map((name) => `  ${name}`)
          .join("\n"),
    );
  }
  const names = [...input.tensors.keys()];
  const ownKind = visionKindOf(names, "visual_encoder.");
  const tensors = partsOf(renamed.tensors, ownKind, path);
  const leftOut = [...renamed.dropped, ...input.leftOut];
  const read = [path];
  let kind = ownKind;
  if (kind !== undefined && sources.vision !== undefined)
    throw new UserError(`${path}: holds its own vision transformer; --vision ${sources.vision} has no place`);
  if (kind === undefined) {
    if (sources.vision === undefined) {
      throw new UserError(
        `${path}: holds no vision transformer, which LAVIS keeps in a file of its own; give it with --vision (eva_vit_g.pth, or clip_vit_L.pth for the ViT-L models)`,
      );
    }
    const part = visionPart(await openCheckpoint(sources.vision), hints);
    kind = part.kind;
    for (const [name, tensor] of part.tensors) {
      // The norm between encoder and Q-Former is BLIP-2's own and was trained with it.
      if (!name.startsWith("vision_model.post_layernorm.")) tensors.set(name, tensor);
    }
    leftOut.push(...part.leftOut);
    read.push(part.path);
  }
  const vision = {
    ...visionConfig(tensors, kind, hints, path),
    ...(kind === "eva" && { post_layernorm_eps: lavisPostNormEpsilon }),
  };
  const { qformer, queries } = bridgeConfig(tensors, hints, path);
  const parts = {
    model_type: "blip-2",
    vision_config: vision,
    qformer_config: qformer,
    num_query_tokens: queries,
  };
  const language = languageKind(names);
  if (language === undefined) {
    const shared = tensors.get("vision_projection.weight")?.dims[0];
    if (shared === undefined)
      throw new UserError(`${path}: has neither vision_proj (stage 1) nor opt_proj or t5_proj (stage 2)`);
    if (sources.languageModel !== undefined)
      throw new UserError(`${path}: is a checkpoint of stage 1; --language-model has no place in it`);
    return {
      layout: "lavis",
      architecture: "Blip2ForImageTextRetrieval",
      config: {
        architectures: ["Blip2ForImageTextRetrieval"],
        ...parts,
        // Python's class asks for a language model's config even where it has none.
        text_config: {
          model_type: "opt",
          vocab_size: 8,
          hidden_size: 8,
          num_hidden_layers: 1,
          ffn_dim: 8,
          num_attention_heads: 1,
        },
        image_text_hidden_size: shared,
        image_token_index: null,
      },
      tensors,
      read,
      leftOut,
    };
  }
  if (qformer["use_qformer_text_input"] === true)
    throw new UserError(
      `${path}: its Q-Former reads the question too (InstructBLIP), which is another model than BLIP-2`,
    );
  const model = await languagePart(path, language, sources.languageModel);
  for (const [name, tensor] of model.tensors) if (!tensors.has(name)) tensors.set(name, tensor);
  return {
    layout: "lavis",
    architecture: "Blip2ForConditionalGeneration",
    config: {
      architectures: ["Blip2ForConditionalGeneration"],
      ...parts,
      text_config: model.config,
      use_decoder_only_language_model: language === "opt",
      ...(language === "t5" && { tie_word_embeddings: model.config["tie_word_embeddings"] ?? true }),
    },
    tensors,
    read: [...read, model.path],
    leftOut: [...leftOut, ...model.leftOut],
    companions: model.folder,
  };
}

function languageKind(names: readonly string[]): "opt" | "t5" | undefined {
  if (names.includes("opt_proj.weight")) return "opt";
  return names.includes("t5_proj.weight") ? "t5" : undefined;
}

async function languagePart(
  path: string,
  kind: "opt" | "t5",
  folder: string | undefined,
): Promise<Checkpoint & { readonly config: JsonObject }> {
  const what = kind === "opt" ? "OPT" : "FLAN-T5";
  if (folder === undefined)
    throw new UserError(
      `${path}: is a checkpoint of stage 2; give the folder of its ${what} with --language-model (languageModel)`,
    );
  const source = await openCheckpoint(folder);
  const type = source.config?.["model_type"];
  if (source.config === undefined || type !== kind)
    throw new UserError(
      `${folder}: a folder of ${what} is required, its model_type is ${quoted(type ?? null)}`,
    );
  const { tensors, leftOut } = languageTensors(source, kind, source.config);
  const { torch_dtype: _old, dtype: _new, transformers_version: _version, ...config } = source.config;
  return {
    ...source,
    tensors,
    leftOut: [...leftOut, ...source.leftOut],
    // LAVIS runs T5 with the exact GELU, whatever its own config says.
    config: { ...config, ...(kind === "t5" && { dense_act_fn: "gelu" }) },
  };
}

/** Copies of a tied word table, and a table that T5's class never reads. */
function isTiedCopy(name: string, kind: unknown, config: JsonObject): boolean {
  if (kind === "opt") return name === "lm_head.weight" && config["tie_word_embeddings"] !== false;
  return (
    kind === "t5" &&
    (/^(encoder|decoder)\.embed_tokens\.weight$/.test(name) ||
      name === "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight" ||
      (name === "lm_head.weight" && config["tie_word_embeddings"] !== false))
  );
}

function languageTensors(
  source: Checkpoint,
  kind: "opt" | "t5",
  config: JsonObject,
): { tensors: Map<string, LazyTensor>; leftOut: string[] } {
  const tensors = new Map<string, LazyTensor>();
  const leftOut: string[] = [];
  for (const [name, tensor] of source.tensors) {
    // Some published OPT files are of the model without its head.
    const full = kind === "opt" ? name.replace(/^decoder\./, "model.decoder.") : name;
    if (isTiedCopy(full, kind, config)) leftOut.push(name);
    else tensors.set(`language_model.${full}`, tensor);
  }
  return { tensors, leftOut };
}

function planVision(input: Checkpoint, kind: VisionKind, hints: SizeHints): ConversionPlan {
  const { path } = input;
  if (kind === "eva") {
    const { tensors, leftOut } = visionPart(input, hints);
    const config = visionConfig(tensors, kind, hints, path);
    const [width] = [config["hidden_size"] as number];
    // BLIP-2 trains this norm itself, from where a new one starts.
    for (const [part, value] of [
      ["weight", 1],
      ["bias", 0],
    ] as const) {
      const data = new Float32Array(width).fill(value);
      const tensor = { dtype: "float32" as const, dims: [width], data };
      tensors.set(`vision_model.post_layernorm.${part}`, { ...tensor, read: async () => tensor });
    }
    const bare = new Map([...tensors].map(([name, tensor]) => [name.slice("vision_model.".length), tensor]));
    return {
      layout: "lavis",
      architecture: "Blip2VisionModel",
      config: { architectures: ["Blip2VisionModel"], ...config },
      tensors: bare,
      read: [path],
      leftOut,
    };
  }
  const { tensors: renamed, dropped, unknown } = renameVision(input.tensors, kind);
  const tensors = partsOf(renamed, kind, path);
  const { num_hidden_layers: more, ...config } = visionConfig(tensors, kind, hints, path);
  // On its own, a CLIP folder counts the blocks that it has; whoever uses it for BLIP-2 leaves the last one out.
  return {
    layout: "lavis",
    architecture: "CLIPVisionModel",
    config: { architectures: ["CLIPVisionModel"], ...config, num_hidden_layers: (more as number) - 1 },
    tensors,
    read: [path],
    leftOut: [...dropped, ...unknown, ...input.leftOut],
  };
}

/** A Hugging Face model in another file format, or of an early revision: names stay, pairs of biases become one. */
async function planHuggingFace(input: Checkpoint): Promise<ConversionPlan> {
  const { path, folder } = input;
  const config =
    input.config ??
    (await openCheckpoint(folder).then(
      (beside) => (beside.path === path ? beside.config : undefined),
      () => undefined,
    ));
  const architecture = (config?.["architectures"] as unknown[] | undefined)?.[0];
  if (config === undefined || typeof architecture !== "string") {
    throw new UserError(
      `${path}: these are not LAVIS's names, and no config.json with "architectures" lies beside the file; give a whole Hugging Face folder`,
    );
  }
  const isBlip2 = config["model_type"] === "blip-2";
  const language = (isBlip2 ? config["text_config"] : config) as JsonObject | undefined;
  const prefix = isBlip2 ? "language_model." : "";
  const kind = language?.["model_type"] ?? (isBlip2 ? "opt" : undefined);
  const tensors = new Map<string, LazyTensor>();
  const leftOut = [...input.leftOut];
  for (const [name, tensor] of input.tensors) {
    const isCopy = name.startsWith(prefix) && isTiedCopy(name.slice(prefix.length), kind, language ?? {});
    if (isCopy || name.endsWith(".position_ids")) leftOut.push(name);
    else tensors.set(name, tensor);
  }
  return {
    layout: "huggingface",
    architecture,
    config,
    tensors: fuseBiases(tensors, path),
    read: [path],
    leftOut,
    companions: folder,
  };
}
