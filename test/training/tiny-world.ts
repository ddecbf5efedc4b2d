/** A world of some forty pictures and a chain of four tiny trainings over it, in a folder of its own. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeScenes } from "../../src/data/scenes/index.js";
import { InterruptedError } from "../../src/errors.js";
import { recipeOf } from "../../src/recipes/index.js";
import { runRecipe, type RunOptions, type RunResult } from "../../src/recipes/run.js";
import { checkConfig } from "../../src/training/config-file.js";

export const stageNames = ["language-model", "vision", "stage1", "stage2"] as const;
export type StageName = (typeof stageNames)[number];

/** Keys of a configuration, as in its JSON file. */
export type Overrides = Readonly<Record<string, unknown>>;

export interface TinyWorld {
  /** Removed at the end. */
  readonly root: string;
  /** The folder of the pictures and texts. */
  readonly data: string;
  /** The configuration of a stage that reads what `runs` hold. */
  config(stage: StageName, overrides?: Overrides): Record<string, unknown>;
  /** Writes it as a file. */
  configFile(name: string, stage: StageName, overrides?: Overrides): Promise<string>;
  /** Runs a stage; `out` is below the root. */
  train(
    stage: StageName,
    out: string,
    overrides?: Overrides,
    options?: Partial<RunOptions>,
  ): Promise<RunResult>;
  /** The same, stopped as by Ctrl-C once `steps` are done. */
  trainUntil(steps: number, stage: StageName, out: string, overrides?: Overrides): Promise<void>;
  remove(): Promise<void>;
}

const common = {
  steps: 6,
  batchSize: 4,
  learningRate: { peak: 3e-3, warmupSteps: 2 },
  logEvery: 1,
  evaluateEvery: 1000,
  checkpointEvery: 1000,
  seed: 3,
};

const configs = {
  "language-model": {
    model: { hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, ffn_dim: 32 },
  },
  vision: {
    model: {
      hidden_size: 16,
      intermediate_size: 32,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      image_size: 24,
      patch_size: 12,
    },
    textTower: { hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, ffn_dim: 32 },
    sharedSize: 8,
    patchWeight: 1,
  },
  stage1: {
    qformer: { hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32 },
    queries: 3,
    sharedSize: 8,
  },
  stage2: { maxTextLength: 32 },
} as const;

export async function makeTinyWorld(): Promise<TinyWorld> {
  const root = await mkdtemp(join(tmpdir(), "blip2-training-"));
  const data = join(root, "scenes");
  await writeScenes({
    out: data,
    seed: 5,
    count: 40,
    validation: 8,
    test: 8,
    compositional: 6,
    textCount: 60,
    textTestCount: 4,
  });
  const inputs = {
    "language-model": {},
    vision: {},
    stage1: { vision: join(root, "vision", "model") },
    stage2: { stage1: join(root, "stage1", "model"), languageModel: join(root, "language-model", "model") },
  };
  const config: TinyWorld["config"] = (stage, overrides = {}) => ({
    data,
    ...inputs[stage],
    ...configs[stage],
    ...common,
    ...overrides,
  });
  const train: TinyWorld["train"] = async (stage, out, overrides, rest = {}) => {
    const options: RunOptions = { out: join(root, out), resume: false, threads: 1, ...rest };
    const recipe = await recipeOf(stage);
    const json = config(stage, overrides);
    const { schema } = recipe;
    const checked = checkConfig(stage, json, typeof schema === "function" ? schema(json) : schema);
    return runRecipe(recipe, checked, options);
  };
  return {
    root,
    data,
    config,
    async configFile(name, stage, overrides) {
      const path = join(root, `${name}.json`);
      await writeFile(path, JSON.stringify(config(stage, overrides)));
      return path;
    },
    train,
    async trainUntil(steps, stage, out, overrides) {
      const controller = new AbortController();
      const onProgress: RunOptions["onProgress"] = ({ step, detail }) => {
        if (!["image features", "pictures"].includes(detail) && step === steps) controller.abort();
      };
      const stopped = await train(stage, out, overrides, { signal: controller.signal, onProgress }).catch(
        (error: unknown) => error,
      );
      if (!(stopped instanceof InterruptedError))
        throw new Error(`the run did not stop at step ${steps}`, { cause: stopped });
    },
    remove: () => rm(root, { recursive: true, force: true }),
  };
}

/** Trains what `stage` needs, under the names that the configurations have. */
export async function trainBefore(world: TinyWorld, stage: StageName): Promise<void> {
  const needed: { readonly [S in StageName]: readonly StageName[] } = {
    "language-model": [],
    vision: [],
    stage1: ["vision"],
    stage2: ["vision", "stage1", "language-model"],
  };
  for (const name of needed[stage]) await world.train(name, name, { steps: 2 });
}
