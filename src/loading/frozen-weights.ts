/** The weights of a model that is only run: left in their files, or quantised first, as the precision asks. */
import { frozenValues, liesAsItIs, openQuantised } from "../checkpoints/quantised-file.js";
import type { TensorFile } from "../checkpoints/safetensors.js";
import type { FrozenWeights } from "../engine/index.js";
import type { FrozenValue } from "../host-tensor.js";
import { heldForm, type Precision } from "./precision.js";

export interface LoadingProgress {
  /** What is being done, such as "quantise"; each begins at step 0. */
  readonly detail: string;
  readonly step: number;
  readonly total: number;
}

/** What may be asked of every loading. */
export interface LoadingHooks {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: LoadingProgress) => void) | undefined;
  /** Is told what the caller should know, such as that weights are copied because they cannot be mapped. */
  readonly onNotice?: ((notice: string) => void) | undefined;
}

export interface FrozenWeightsOptions extends LoadingHooks {
  readonly precision: Precision;
  /** Whether the word table is the head of the language model. */
  readonly tiedHead: boolean;
  /** Tensors of the file that nobody reads. */
  readonly ignored?: (name: string) => boolean;
}

/**
 * What may follow from other tensors than the file's own of that name: positions at another picture size, biases that
 * older files hold in parts. It is read and never part of a copy, which so serves all sizes.
 */
const mayBeDerived = /^vision_model\.(embeddings\.position_embedding|.*\.(q_bias|v_bias|qkv\.bias)$)/;

/**
 * Opens the weights of `file`; the result gives the values of the named ones: where they lie, or in memory those
 * that no file holds as they are needed. See `openQuantised` for errors.
 */
export async function openFrozenWeights(
  file: TensorFile,
  { precision, tiedHead, ...options }: FrozenWeightsOptions,
): Promise<(names: Iterable<string>) => Promise<FrozenWeights>> {
  if (precision === "fp32") {
    return async (names) => {
      const wanted = [...names].map((name) => [name, file.tensors.get(name)!] as const);
      const read = wanted.filter(([, entry]) => !liesAsItIs(entry)).map(([name]) => name);
      const lying = wanted.filter(([, entry]) => liesAsItIs(entry));
      return new Map<string, FrozenValue>([...lying, ...(await file.readAll(read))]);
    };
  }
  const copy = await openQuantised(file, {
    ...options,
    ignored: (name) => options.ignored?.(name) === true || mayBeDerived.test(name),
    precision,
    form: (name, dims) => heldForm(precision, name, dims, tiedHead),
  });
  return async (names) => {
    const wanted = [...names];
    return new Map([
      ...frozenValues(
        copy,
        wanted.filter((name) => !mayBeDerived.test(name)),
      ),
      ...(await file.readAll(wanted.filter((name) => mayBeDerived.test(name)))),
    ]);
  };
}
