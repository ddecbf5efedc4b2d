/** The narrow way to zero-shot VQA. */
import { UserError } from "../../src/errors.js";
import type { Blip2 } from "../../src/generation/blip-2.js";
import type { TrainingHooks } from "../../src/training/trainer.js";
import type { Given } from "./experiment.js";

export interface Asking extends Pick<TrainingHooks, "signal" | "onProgress"> {
  readonly data: string;
  readonly split: string;
  /** Only the first questions. */
  readonly limit: number;
  readonly given: Given;
}

/** Accuracies under `accuracy` and `accuracy: TYPE`. */
export function askQuestions(_model: Blip2, _asking: Asking): Promise<Record<string, number>> {
  return Promise.reject(new UserError("this checkout cannot evaluate VQA yet"));
}
