/** Runs a recipe: its folder, its device, the loop, and what comes out, the same way for each. */
import { join } from "node:path";
import { openDevice } from "../engine/node.js";
import { readConfig } from "../training/config-file.js";
import { writeCurves } from "../training/curves.js";
import { RunFolder } from "../training/run-folder.js";
import { train, type TrainerConfig, type TrainingHooks, type TrainingResult } from "../training/trainer.js";
import { resolvePlaces, wholePlaces } from "./places.js";
import type { Recipe } from "./recipe.js";

export interface RunOptions extends TrainingHooks {
  /** The run's folder. */
  readonly out: string;
  readonly resume: boolean;
  readonly threads?: number | undefined;
  /** Writes the model also after every so many steps, as `model-STEP`. */
  readonly modelEvery?: number | undefined;
}

export interface RunResult extends TrainingResult {
  /** Where the trained model was written. */
  readonly model: string;
}

/** Where a run's model lies: the finished one, or that of an earlier step. */
export const modelFolder = (out: string, step?: number): string =>
  join(out, step === undefined ? "model" : `model-${step}`);

/** Runs a recipe by its configuration file, whose places count from the file's folder. */
export async function runConfigFile(recipe: Recipe, file: string, options: RunOptions): Promise<RunResult> {
  const { signal, log } = options;
  const config = await readConfig(file, recipe.schema, (checked) =>
    resolvePlaces(file, checked, recipe.places, { signal, onNotice: log }),
  );
  return runRecipe(recipe, config, options);
}

/** Runs a recipe by a checked configuration, whose places are as they are. */
export async function runRecipe<Config extends TrainerConfig>(
  recipe: Recipe<Config>,
  config: Config,
  options: RunOptions,
): Promise<RunResult> {
  const { out, modelEvery } = options;
  const prepared = await recipe.prepare(config, options);
  await using run = await RunFolder.open(out, config, {
    ...options,
    data: prepared.data,
    normalise: (known) => wholePlaces(known, recipe.places),
  });
  await using device = openDevice({ threads: options.threads });
  const task = await prepared.task(device);
  try {
    const result = await train(device, task, config, run, {
      ...options,
      ...(modelEvery !== undefined && {
        intermediate: {
          every: modelEvery,
          keep: (step, weights) => prepared.write(modelFolder(out, step), weights),
        },
      }),
    });
    const model = modelFolder(out);
    await prepared.write(model, result.weights);
    await writeCurves(out, `${recipe.name}, ${out}`);
    return { ...result, model };
  } finally {
    await task.close?.();
  }
}
