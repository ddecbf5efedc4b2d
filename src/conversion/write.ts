/** Writes what was planned: tensor by tensor, so that a checkpoint need not fit into the memory, and in one piece. */
import { stopIf } from "../errors.js";
import { elementCount } from "../host-tensor.js";
import { writeModelFolder, type ModelFolderContent } from "../checkpoints/model-folder.js";
import type { WriteProgress } from "../checkpoints/safetensors.js";
import type { ConversionPlan } from "./plan.js";

export interface ConversionOutput {
  readonly out: string;
  /** How float tensors are stored; "unchanged" keeps each as it is. */
  readonly dtype: ModelFolderContent["dtype"];
  /** Keys of config.json that the plan could not know. */
  readonly config?: object;
  readonly files: NonNullable<ModelFolderContent["files"]>;
  readonly onTensor?: WriteProgress;
  readonly signal?: AbortSignal;
}

/**
 * Writes the folder and returns how many tensors and numbers it holds. A model folder of that name is replaced.
 * Throws `UserError` if the disk is full, a number does not fit float16, or a source changed; then nothing is left behind.
 */
export async function writeConversion(
  plan: ConversionPlan,
  { out, dtype, config, files, onTensor, signal }: ConversionOutput,
): Promise<{ readonly tensors: number; readonly parameters: number }> {
  await writeModelFolder(out, {
    config: { ...plan.config, ...config, ...dtypeKey(plan, dtype) },
    tensors: plan.tensors,
    dtype,
    files,
    onTensor: (written, total) => {
      stopIf(signal);
      onTensor?.(written, total);
    },
  });
  const sizes = [...plan.tensors.values()].map(({ dims }) => elementCount(dims));
  return { tensors: sizes.length, parameters: sizes.reduce((sum, size) => sum + size, 0) };
}

/** What the config says of the stored type: the widest that occurs. */
function dtypeKey(plan: ConversionPlan, dtype: ModelFolderContent["dtype"]): object {
  if (dtype !== "unchanged") return { dtype };
  const found = new Set([...plan.tensors.values()].map((tensor) => tensor.dtype));
  const widest = (["float32", "bfloat16", "float16"] as const).find((kind) => found.has(kind));
  return widest === undefined ? {} : { dtype: widest };
}
