/** The narrow way to zero-shot VQA: only numbers come back. */
import { evaluateVqa } from "../../src/evaluation/vqa.js";
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

/** Accuracies under `accuracy` and `accuracy: TYPE`, and how many `questions` were asked. */
export async function askQuestions(model: Blip2, asking: Asking): Promise<Record<string, number>> {
  const { measures } = await evaluateVqa(model, asking);
  const { images: _images, ...told } = measures;
  return told;
}
