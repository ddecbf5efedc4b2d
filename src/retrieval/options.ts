/** What callers may ask of a `Blip2Retriever`, checked by name and value. */
import { z } from "zod";
import { checkAgainst, show } from "../check-options.js";
import type { HubOptions } from "../hub/hub.js";
import type { LoadingHooks } from "../loading/frozen-weights.js";
import { precisions, type Precision } from "../loading/precision.js";

export interface RetrieverLoadOptions extends HubOptions, LoadingHooks {
  /** How linear layers are held and multiplied: see `Blip2.load`. Here "int4" is the same as "int8". Default: "fp32". */
  readonly precision?: Precision | undefined;
  /** Default: the CPUs that this process may use. */
  readonly threads?: number | undefined;
  /**
   * Side in pixels to which pictures are resized. Default: preprocessor_config.json's. Learned positions are
   * interpolated where the model has them for another size.
   */
  readonly imageSize?: number | undefined;
  /**
   * Texts are cut to so many tokens, [CLS] and [SEP] included. LAVIS trains with 32 and searches with 35. Default: nothing
   * is cut, and a text that is longer than the model's position table (512 as published) is refused.
   */
  readonly maxTextLength?: number | undefined;
}

export interface RetrieverRunOptions {
  /** Ends the work with an `InterruptedError`, at the latest after the batch under way. */
  readonly signal?: AbortSignal | undefined;
}

const signal = z.instanceof(AbortSignal).optional();
const anything = z.custom<unknown>((value) => value !== undefined, "is required");

const callback = z.custom<unknown>((value) => typeof value === "function", "must be a function");

const schemas = {
  load: z.strictObject({
    precision: z.enum(precisions).optional(),
    threads: z.int().min(1).optional(),
    imageSize: z.int().min(1).optional(),
    maxTextLength: z.int().min(3).optional(),
    signal,
    revision: z.string().optional(),
    onDownload: callback.optional(),
    onNotice: callback.optional(),
    onProgress: callback.optional(),
  }),
  score: z.strictObject({ signal }),
  scoreTexts: z.strictObject({ signal }),
  scorePairs: z.strictObject({ signal }),
  rankTexts: z.strictObject({ signal }),
  encodeImages: z.strictObject({ signal }),
  embedImage: z.strictObject({ signal }),
  embedImages: z.strictObject({ signal }),
  embedText: z.strictObject({ signal }),
  embedTexts: z.strictObject({ signal }),
  attention: z.strictObject({ signal }),
  matchingAttention: z.strictObject({ signal }),
  forward: z.strictObject({
    pixelValues: anything,
    inputIds: anything,
    attentionMask: z.unknown().optional(),
    useImageTextMatchingHead: z.boolean().optional(),
    signal,
  }),
};

/** Throws one `UserError` that names every unknown option and every value that does not fit. */
export function checkRetrieverOptions(call: keyof typeof schemas, options: unknown): void {
  checkAgainst(schemas[call], call, options, (key, value) =>
    key === "precision"
      ? `precision is ${show(value)}: one of ${precisions.join(", ")} is required`
      : undefined,
  );
}
