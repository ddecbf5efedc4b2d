/** What every evaluation is told. */
import type { TrainingHooks } from "../training/trainer.js";

export interface EvaluationOptions extends Pick<TrainingHooks, "signal" | "onProgress" | "log"> {
  /** Folder of the model. */
  readonly model: string;
  /** Folder of the data. */
  readonly data: string;
  /** Only the first samples. */
  readonly limit?: number | undefined;
  readonly threads?: number | undefined;
}
