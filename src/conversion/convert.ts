/** Checkpoints in other layouts as Hugging Face folders, as callers ask for it. */
import { z } from "zod";
import { checkAgainst } from "../check-options.js";
import { stopIf, UserError } from "../errors.js";
import type { LoadingHooks } from "../loading/frozen-weights.js";
import { checkConversion } from "./check.js";
import { companionFiles } from "./companions.js";
import { planConversion } from "./plan.js";
import { writeConversion } from "./write.js";

/** How float tensors may be stored. */
const storedTypes = ["unchanged", "float32", "float16"] as const;

export interface ConvertOptions extends LoadingHooks {
  /** eva_vit_g.pth or clip_vit_L.pth, where a .pth holds no image encoder. */
  readonly vision?: string | undefined;
  /** A folder of OPT or FLAN-T5 in Hugging Face's layout, for a .pth of stage 2. */
  readonly languageModel?: string | undefined;
  /** The folder where the tokenizer is. Default: `languageModel`, or the input's own folder. */
  readonly tokenizer?: string | undefined;
  /** How float tensors are stored. Default: "unchanged", each as it is. */
  readonly dtype?: (typeof storedTypes)[number] | undefined;
  /** Attention heads of an image encoder of no published size. */
  readonly visionHeads?: number | undefined;
  /** Blocks to keep of such an image encoder's own file. */
  readonly visionLayers?: number | undefined;
  /** Attention heads of a Q-Former of no published size. */
  readonly qformerHeads?: number | undefined;
}

export interface ConvertedCheckpoint {
  /** The Hugging Face class that loads the folder. */
  readonly architecture: string;
  /** Files of tensors that were read. */
  readonly read: readonly string[];
  /** How many tensors were written. */
  readonly tensors: number;
  /** Numbers in them. */
  readonly parameters: number;
  /** What the files hold and the folder does not: tensors by their old names, optimizer, configuration. */
  readonly leftOut: readonly string[];
  /** Names of the further files that were written, sorted. */
  readonly files: readonly string[];
}

const callback = z.custom<unknown>((value) => typeof value === "function", "must be a function");
const count = z.int().min(1).optional();
const optionsSchema = z.strictObject({
  vision: z.string().optional(),
  languageModel: z.string().optional(),
  tokenizer: z.string().optional(),
  dtype: z.enum(storedTypes).optional(),
  visionHeads: count,
  visionLayers: count,
  qformerHeads: count,
  signal: z.instanceof(AbortSignal).optional(),
  onProgress: callback.optional(),
  onNotice: callback.optional(),
});

/**
 * Writes the folder `output` from `input`: a .pth of LAVIS (BLIP-2, EVA-CLIP or CLIP), or a Hugging Face folder or .bin file, also of
 * an early revision. Pickles are read, never executed; tensors go through memory one by one. A model folder that is there already is
 * replaced.
 *
 * Throws `UserError` naming what is missing, unknown, misshapen, or not to be told from the files; and `InterruptedError`. Then nothing
 * is left behind.
 */
export async function convertCheckpoint(
  input: string,
  output: string,
  options: ConvertOptions = {},
): Promise<ConvertedCheckpoint> {
  for (const [name, path] of Object.entries({ input, output }))
    if (typeof path !== "string" || path === "")
      throw new UserError(`convertCheckpoint: ${name} must be the path of a file or folder`);
  checkAgainst(optionsSchema, "convertCheckpoint", options);
  const { vision, languageModel, tokenizer, dtype = "unchanged", signal, onProgress, onNotice } = options;
  stopIf(signal);
  const planned = await planConversion({ input, vision, languageModel }, options);
  const plan = await checkConversion(planned, input);
  const { config, files, notes } = await companionFiles(plan, tokenizer);
  for (const note of notes) onNotice?.(note);
  const written = await writeConversion(plan, {
    out: output,
    dtype,
    config,
    files,
    ...(signal && { signal }),
    onTensor: (step, total) => onProgress?.({ detail: "convert", step, total }),
  });
  const { architecture, read, leftOut } = plan;
  return { architecture, read, ...written, leftOut, files: Object.keys(files).sort() };
}
