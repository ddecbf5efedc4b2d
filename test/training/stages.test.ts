/** Every stage learns, goes on where it was stopped, and writes what the next stage and Python read. */
import { existsSync, readdirSync, readlinkSync } from "node:fs";
import { readFile, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { toFloat16, toFloat32 } from "../../src/float16.js";
import { openSafetensors } from "../../src/checkpoints/safetensors.js";
import { openData } from "../../src/data/open-data.js";
import { readTextCorpus } from "../../src/data/text-corpus.js";
import { trainableParameters, type Device } from "../../src/engine/index.js";
import { UserError } from "../../src/errors.js";
import { float32Tensor, type HostTensor } from "../../src/host-tensor.js";
import { loadTokenizer } from "../../src/text/tokenizer.js";
import { openFrozenLanguageModel } from "../../src/loading/frozen-language-model.js";
import { openFrozenVision } from "../../src/loading/frozen-vision.js";
import { frozenEncoder } from "../../src/training/frozen-encoder.js";
import { openFeatures } from "../../src/training/image-features.js";
import { languageModelConfigSchema, languageModelTask } from "../../src/recipes/scenes-parts/opt.js";
import { slots } from "../../src/training/optimizer.js";
import { RunFolder } from "../../src/training/run-folder.js";
import { readLog } from "../../src/training/run-log.js";
import { stage1ConfigSchema, stage1Task } from "../../src/recipes/stage-1.js";
import { stage2ConfigSchema } from "../../src/recipes/stage-2/config.js";
import { stage2Task } from "../../src/recipes/stage-2/task.js";
import { train, type Task, type TrainerConfig } from "../../src/training/trainer.js";
import { expectClose } from "../golden-case.js";
import { testDevice } from "../nn/evaluate.js";
import { makeTinyWorld, stageNames, type Overrides, type TinyWorld } from "./tiny-world.js";

let world: TinyWorld;
beforeAll(async () => {
  world = await makeTinyWorld();
}, 120_000);
afterAll(() => world.remove());

const checkpoint = (run: string): Promise<Buffer> =>
  readFile(join(world.root, run, "checkpoint.safetensors"));

/** Some stages with their batches in parts, some without. */
const parts = { "language-model": 2, vision: 1, stage1: 2, stage2: 1 } as const;

/** In the order in which they build on each other. */
describe.sequential.each(stageNames)("%s", (stage) => {
  const keys = { steps: 12, accumulate: parts[stage], evaluateEvery: 6 };

  it("learns", { timeout: 120_000 }, async () => {
    const { step, last } = await world.train(stage, stage, keys);
    expect(step).toBe(12);
    const lines = await readLog(join(world.root, stage));
    const losses = lines.flatMap((line) => ("learningRate" in line ? [Number(line["loss"])] : []));
    expect(losses).toHaveLength(12);
    const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b) / values.length;
    expect(mean(losses.slice(-3))).toBeLessThan(mean(losses.slice(0, 3)));
    expect(last["loss"]).toBe(losses.at(-1));
  });

  it("resumed equals unbroken, to the bit", { timeout: 120_000 }, async () => {
    const broken = `${stage}-broken`;
    await world.trainUntil(5, stage, broken, keys);
    const held = await openSafetensors(join(world.root, broken, "checkpoint.safetensors"));
    expect(held.metadata["step"]).toBe("5");
    await world.train(stage, broken, keys, { resume: true });
    expect((await checkpoint(broken)).equals(await checkpoint(stage))).toBe(true);
    const withoutTime = async (run: string) =>
      (await readLog(join(world.root, run))).map((line) => ({ ...line, secondsPerStep: 0 }));
    expect(await withoutTime(broken)).toEqual(await withoutTime(stage));
  });
});

it.each(["language-model", "vision", "stage2"] as const)(
  "%s goes on from the weights of an earlier run",
  { timeout: 120_000 },
  async (stage) => {
    const { weights: before } = await world.train(stage, `${stage}-first`, { steps: 4 });
    // At a rate of next to nothing, one step leaves the weights where they start.
    const { weights: after } = await world.train(stage, `${stage}-second`, {
      steps: 1,
      start: join(world.root, `${stage}-first`),
      learningRate: { peak: 1e-12 },
      seed: 9,
    });
    expect([...after.keys()]).toEqual([...before.keys()]);
    for (const [name, value] of after) expectClose(name, value, before.get(name), { within: 1e-6 });
  },
);

it.each(["language-model", "stage2"] as const)(
  "%s goes on from a model folder, whose weights are half precision",
  { timeout: 120_000 },
  async (stage) => {
    const { weights: before } = await world.train(stage, `${stage}-published`, { steps: 4 });
    const still = { steps: 1, learningRate: { peak: 1e-12 }, seed: 9 };
    const start = join(world.root, `${stage}-published`, "model");
    const { weights: after } = await world.train(stage, `${stage}-from-published`, { ...still, start });
    expect([...after.keys()]).toEqual([...before.keys()]);
    for (const [name, value] of after) {
      const rounded = toFloat32(toFloat16(before.get(name)!, name));
      expectClose(name, value, rounded, { within: 1e-6 });
    }
  },
);

it("a start that holds neither a checkpoint nor a model is refused by name", async () => {
  const training = world.train("stage2", "stage2-lost", { start: world.data });
  await expect(training).rejects.toThrow(/start: .* holds no checkpoint of a run.* has no config\.json/);
});

describe("stage 1 with some of its objectives", () => {
  it("neither logs nor computes what is left out", { timeout: 120_000 }, async () => {
    const lean = { steps: 3, objectives: ["itc", "itm"] };
    const { weights } = await world.train("stage1", "stage1-without-itg", lean);
    const { weights: start } = await world.train("stage1", "stage1-with-itg", { steps: 3 });
    const loggedBy = async (run: string) => Object.keys((await readLog(join(world.root, run)))[0]!);
    const all = await loggedBy("stage1-with-itg");
    expect(all).toContain("itg");
    expect(await loggedBy("stage1-without-itg")).toEqual(all.filter((name) => name !== "itg"));
    const bias = "cls.predictions.bias";
    expect(weights.get(bias)!.data.every((value) => Number(value) === 0)).toBe(true);
    expect(start.get(bias)!.data.every((value) => Number(value) === 0)).toBe(false);

    await using device = testDevice();
    const task = await stage1TaskOf(device, lean);
    const reached = trainableParameters([task.loss, ...Object.values(task.metrics)]);
    expect(reached.has("itm_head.weight")).toBe(true);
    expect([...reached.keys()].filter((name) => name.startsWith("cls."))).toEqual([]);
  });

  async function stage1TaskOf(device: Device, overrides: Overrides): Promise<Task> {
    const config = stage1ConfigSchema.parse(world.config("stage1", overrides));
    const vision = openFrozenVision(await readModelFolder(config.vision));
    const pictures = await openData(world.data, "train").captions();
    const folder = join(world.data, "features");
    const train = await openFeatures(frozenEncoder(vision, device), pictures, { folder, brokenPictures: 0 });
    const tokenizer = await loadTokenizer(join(world.root, "stage1", "model"));
    const task = await stage1Task({ device, config, vision, tokenizer, train, validation: train });
    await train.close();
    return task;
  }
});

describe("stage 2 without stage 1", () => {
  it("draws anew all that stage 1 trains, by its seed", { timeout: 120_000 }, async () => {
    const still = { steps: 1, learningRate: { peak: 1e-12 }, freshQFormer: true };
    const { weights: fresh } = await world.train("stage2", "stage2-fresh", { ...still, seed: 3 });
    const { weights: other } = await world.train("stage2", "stage2-fresh-other", { ...still, seed: 4 });
    const { weights: taught } = await world.train("stage2", "stage2-taught", {
      ...still,
      freshQFormer: false,
    });
    expect([...fresh.keys()]).toEqual([...taught.keys()]);
    for (const name of ["query_tokens", "qformer.encoder.layer.0.attention.attention.query.weight"]) {
      const values = [fresh, other, taught].map((weights) => Array.from(weights.get(name)!.data, Number));
      expect(values[0], name).not.toEqual(values[1]);
      expect(values[0], name).not.toEqual(values[2]);
      // Drawn with a deviation of 0.02, far from what training leaves.
      const [mean, square] = [0, 0].map(
        (_, power) => values[0]!.reduce((sum, value) => sum + value ** (power + 1), 0) / values[0]!.length,
      );
      expect(Math.sqrt(square! - mean! ** 2), name).toBeLessThan(0.03);
    }
    expectClose(
      "vision_model.post_layernorm.weight",
      fresh.get("vision_model.post_layernorm.weight"),
      float32Tensor(new Float32Array(16).fill(1), [16]),
      { within: 1e-6 },
    );
  });

  it("cannot begin with weights of another run too", async () => {
    const config = world.config("stage2", { freshQFormer: true, start: "elsewhere" });
    expect(() => stage2ConfigSchema.parse(config)).toThrow("freshQFormer");
  });
});

it("stage 2 also writes models on its way, and trains the same", { timeout: 120_000 }, async () => {
  const options = { steps: 4, checkpointEvery: 2 };
  await world.train("stage2", "stage2-kept", options, { modelEvery: 2 });
  await world.train("stage2", "stage2-plain", options);
  await world.train("stage2", "stage2-half", {
    ...options,
    steps: 2,
    learningRate: { peak: 3e-3, warmupSteps: 2, scheduleSteps: 4 },
  });
  const model = (run: string, name = "model"): Promise<Buffer> =>
    readFile(join(world.root, run, name, "model.safetensors"));
  expect((await readdir(join(world.root, "stage2-kept"))).filter((name) => name.startsWith("model"))).toEqual(
    ["model", "model-2"],
  );
  expect((await model("stage2-kept")).equals(await model("stage2-plain"))).toBe(true);
  expect((await model("stage2-kept", "model-2")).equals(await model("stage2-half"))).toBe(true);
});

it.runIf(existsSync("/proc/self/fd"))("closes what it reads from, also when it is stopped", () => {
  const open = readdirSync("/proc/self/fd").flatMap((descriptor) => {
    try {
      return [readlinkSync(`/proc/self/fd/${descriptor}`)];
    } catch {
      return []; // the one that listed the others
    }
  });
  expect(open.filter((file) => file.startsWith(world.root))).toEqual([]);
});

describe("a batch in parts", () => {
  /** The gradients that one step leaves, over all its parts, divided by their number. */
  async function gradientsOf(
    device: Device,
    task: Task,
    config: TrainerConfig,
    out: string,
  ): Promise<Map<string, HostTensor>> {
    await train(
      device,
      task,
      { ...config, steps: 1 },
      await RunFolder.open(join(world.root, out), config, { resume: false }),
    );
    const reached = [...trainableParameters([task.loss]).keys()];
    const values = await device.read(reached.map((name) => slots.gradient(name)));
    return new Map(
      reached.map((name) => {
        const { dims, data } = values[slots.gradient(name)]!;
        return [
          name,
          float32Tensor(
            (data as Float32Array).map((value) => value / config.accumulate),
            dims,
          ),
        ];
      }),
    );
  }

  async function expectMeanOfParts(
    device: Device,
    task: Task,
    config: TrainerConfig,
    out: string,
  ): Promise<void> {
    const measured = { ...task, evaluate: () => Promise.resolve({}) };
    const together = await gradientsOf(device, measured, config, out);
    const alone: Map<string, HostTensor>[] = [];
    for (let part = 0; part < config.accumulate; part++) {
      const only = { ...measured, batch: (step: number) => task.batch(step, part) };
      alone.push(await gradientsOf(device, only, { ...config, accumulate: 1 }, `${out}-${part}`));
    }
    expect(together.size).toBeGreaterThan(10);
    for (const [name, { dims, data }] of together) {
      const mean = Array.from(
        data as Float32Array,
        (_, i) => alone.reduce((sum, part) => sum + Number(part.get(name)!.data[i]), 0) / alone.length,
      );
      expectClose(name, { dtype: "float32", dims, data }, float32Tensor(mean, dims), {
        within: 1e-5,
        floor: 1e-3,
      });
    }
  }

  it("trains a language model on the mean of its parts", { timeout: 120_000 }, async () => {
    await using device = testDevice();
    const config = languageModelConfigSchema.parse(world.config("language-model", { accumulate: 2 }));
    const corpus = await readTextCorpus(join(world.data, "text_train.jsonl"));
    const tokenizer = await loadTokenizer(join(world.root, "language-model", "model"));
    const texts = { train: corpus, test: corpus.slice(0, 1) };
    const task = await languageModelTask({ device, config, tokenizer, ...texts });
    await expectMeanOfParts(device, task, config, "language-model-parts");
  });

  it("trains stage 2 on the mean of its parts, dropout and all", { timeout: 120_000 }, async () => {
    await using device = testDevice();
    const config = stage2ConfigSchema.parse(world.config("stage2", { accumulate: 2 }));
    const [stage1, languageModel] = [
      await readModelFolder(config.stage1),
      await openFrozenLanguageModel(await readModelFolder(config.languageModel)),
    ];
    const vision = openFrozenVision(stage1);
    const tokenizer = await loadTokenizer(config.languageModel);
    const pictures = await openData(world.data, "train").captions();
    const folder = join(world.data, "features");
    const train = await openFeatures(frozenEncoder(vision, device), pictures, { folder, brokenPictures: 0 });
    const frozen = { stage1, vision, languageModel, tokenizer };
    const task = await stage2Task({ device, config, ...frozen, train, validation: train });
    await expectMeanOfParts(device, task, config, "stage2-parts");
    await train.close();
  });
});

describe("what stage 2 trains", () => {
  it("is the bridge: frozen weights are not in the checkpoint, and leave as they came", async () => {
    const held = await openSafetensors(join(world.root, "stage2", "checkpoint.safetensors"));
    const names = [...held.tensors.keys()];
    expect(
      names.filter((name) => name.includes("language_model.") || name.includes("vision_model.encoder.")),
    ).toEqual([]);
    expect(names).toContain("weight language_projection.weight");

    const tensors = async (run: string) =>
      (await openSafetensors(join(world.root, run, "model", "model.safetensors"))).readAll();
    const [model, languageModel, vision] = [
      await tensors("stage2"),
      await tensors("language-model"),
      await tensors("vision"),
    ];
    for (const [name, value] of languageModel)
      expect(model.get(`language_model.${name}`), name).toEqual(value);
    // Its last norm is the bridge's, which is trained.
    for (const [name, value] of vision) {
      if (!name.startsWith("post_layernorm.")) expect(model.get(`vision_model.${name}`), name).toEqual(value);
    }
  });
});

describe("statements in stage 2", () => {
  it(
    "are learnt from their own file, with the soft prompt near the spread of words",
    { timeout: 120_000 },
    async () => {
      const { last } = await world.train("stage2", "stage2-statements", {
        statements: { share: 0.5, perRow: 2 },
        softPrompt: { limit: 2 },
        steps: 4,
      });
      expect(last["loss"]).toBeGreaterThan(0);
    },
  );

  it("are missed by name", async () => {
    const file = join(world.data, "statements_train.json");
    const whole = await readFile(file, "utf8");
    const { images, annotations } = JSON.parse(whole) as {
      images: object[];
      annotations: { image_id: number }[];
    };
    const train = (out: string) => world.train("stage2", out, { statements: { share: 0.5 } });
    try {
      const few = annotations.filter(({ image_id }) => image_id !== 3);
      await writeFile(file, JSON.stringify({ images, annotations: few }));
      await expect(train("few")).rejects.toThrow(/statements_train\.json: 1 pictures .* required: 3$/);
      await rm(file);
      await expect(train("none")).rejects.toThrow(/statements_train\.json: this file does not exist/);
    } finally {
      await writeFile(file, whole);
    }
  });
});

it("computes image features once for each split, not once for each stage", async () => {
  // train and validation, for both stages
  expect(await readdir(join(world.data, "features"))).toHaveLength(2);
});

describe("texts that are longer than a model has positions for", () => {
  it.each([
    [
      "language-model",
      {
        model: {
          hidden_size: 16,
          num_hidden_layers: 1,
          num_attention_heads: 2,
          ffn_dim: 32,
          max_position_embeddings: 24,
        },
      },
      /max_position_embeddings is 24.* description of \d+ tokens/,
    ],
    ["stage1", { maxTextLength: 600 }, /maxTextLength is 600.*max_position_embeddings, which is 512/],
    ["stage2", { maxTextLength: 254 }, /maxTextLength is 254.*after 3 queries.*256 positions/],
  ] as const)("are refused in words (%s)", async (stage, keys, message) => {
    const failed = await world.train(stage, `${stage}-long`, keys).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(UserError);
    expect((failed as Error).message).toMatch(message);
  });
});

describe("the folders that are written", () => {
  const tokenizer = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
  it.each([
    [
      "language-model/model",
      [
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "vocab.json",
        ...tokenizer,
      ],
    ],
    ["vision/model", ["config.json", "model.safetensors", "preprocessor_config.json"]],
    ["vision/towers", ["config.json", "merges.txt", "model.safetensors", "vocab.json", ...tokenizer]],
    [
      "stage1/model",
      ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.txt", ...tokenizer],
    ],
    [
      "stage2/model",
      [
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "vocab.json",
        ...tokenizer,
      ],
    ],
  ])("%s", async (folder, files) => {
    expect((await readdir(join(world.root, folder))).sort()).toEqual([...files].sort());
  });
});
