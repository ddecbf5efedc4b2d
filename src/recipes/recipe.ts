/** What a training is: its configuration, and how that becomes something that the loop can run. */
import type { z } from "zod";
import type { Device } from "../engine/index.js";
import type { Task, TrainerConfig, TrainingHooks, TrainingResult } from "../training/trainer.js";
import type { Places } from "./places.js";

/** A training that has read and checked all that it needs but computed nothing. */
export interface Prepared {
  /** What the data are, in short digests by their names: a run that is resumed must find the same. */
  readonly data: Readonly<Record<string, string>>;
  /** Sets the training up on a device. What it opens it closes with `Task.close`. */
  task(device: Device): Promise<Task>;
  /** Writes what was trained as the folder `model`; further folders beside it are named after it. */
  write(model: string, weights: TrainingResult["weights"]): Promise<void>;
}

export interface Recipe<Config extends TrainerConfig = TrainerConfig> {
  /** As `blip2 train` names it. */
  readonly name: string;
  /** Of its configuration, which may decide by what it says itself. */
  readonly schema: z.ZodType<Config> | ((json: unknown) => z.ZodType<Config>);
  /** Keys of the configuration that name places. */
  readonly places: Places;
  /** Reads what the configuration names. Throws a `UserError` before anything is written if something does not fit. */
  prepare(config: Config, hooks: TrainingHooks): Promise<Prepared>;
}

/** Gives `prepare` the type of what the schema reads. */
export function defineRecipe<Config extends TrainerConfig>(recipe: Recipe<Config>): Recipe<Config> {
  return recipe;
}
