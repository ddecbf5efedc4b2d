/** Every stage learns, goes on where it was stopped, and writes what the next stage and Python read. */
import { existsSync, readdirSync, readlinkSync } from "node:fs";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openSafetensors } from "../../src/checkpoints/safetensors.js";
import { readLog } from "../../src/training/run-folder.js";
import { makeTinyWorld, stageNames, type TinyWorld } from "./tiny-world.js";

let world: TinyWorld;
beforeAll(async () => {
  world = await makeTinyWorld();
}, 120_000);
afterAll(() => world.remove());

const checkpoint = (run: string): Promise<Buffer> => readFile(join(world.root, run, "checkpoint.safetensors"));

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
      (await readLog(join(world.root, run))).map(({ secondsPerStep: _, ...line }) => line);
    expect(await withoutTime(broken)).toEqual(await withoutTime(stage));
  });
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

describe("what stage 2 trains", () => {
  it("is the bridge: frozen weights are not in the checkpoint, and leave as they came", async () => {
    const held = await openSafetensors(join(world.root, "stage2", "checkpoint.safetensors"));
    const names = [...held.tensors.keys()];
    expect(names.filter((name) => name.includes("language_model.") || name.includes("vision_model.encoder."))).toEqual([]);
    expect(names).toContain("weight language_projection.weight");

    const tensors = async (run: string) => (await openSafetensors(join(world.root, run, "model", "model.safetensors"))).readAll();
    const [model, languageModel, vision] = [await tensors("stage2"), await tensors("language-model"), await tensors("vision")];
    for (const [name, value] of languageModel) expect(model.get(`language_model.${name}`), name).toEqual(value);
    // Its last norm is the bridge's, which is trained.
    for (const [name, value] of vision) {
      if (!name.startsWith("post_layernorm.")) expect(model.get(`vision_model.${name}`), name).toEqual(value);
    }
  });
});

describe("the folders that are written", () => {
  const tokenizer = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
  it.each([
    ["language-model/model", ["config.json", "generation_config.json", "merges.txt", "model.safetensors", "vocab.json", ...tokenizer]],
    ["vision/model", ["config.json", "model.safetensors", "preprocessor_config.json"]],
    ["vision/towers", ["config.json", "merges.txt", "model.safetensors", "vocab.json", ...tokenizer]],
    ["stage1/model", ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.txt", ...tokenizer]],
    [
      "stage2/model",
      ["config.json", "generation_config.json", "merges.txt", "model.safetensors", "preprocessor_config.json", "processor_config.json", "vocab.json", ...tokenizer],
    ],
  ])("%s", async (folder, files) => {
    expect((await readdir(join(world.root, folder))).sort()).toEqual([...files].sort());
  });
});
