/** Every stage learns, goes on where it was stopped, and writes what the next stage and Python read. */
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

/** Twelve steps each, in the order in which they build on each other. */
describe.sequential.each(stageNames)("%s", (stage) => {
  it("learns", { timeout: 120_000 }, async () => {
    const { step, last } = await world.train(stage, stage, { steps: 12, evaluateEvery: 6 });
    expect(step).toBe(12);
    const lines = await readLog(join(world.root, stage));
    const losses = lines.flatMap((line) => ("learningRate" in line ? [Number(line["loss"])] : []));
    expect(losses).toHaveLength(12);
    const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b) / values.length;
    expect(mean(losses.slice(-3))).toBeLessThan(mean(losses.slice(0, 3)));
    expect(last["loss"]).toBe(losses.at(-1));
  });

  it.each([1, 2])("resumed equals unbroken, to the bit (%s parts)", { timeout: 120_000 }, async (accumulate) => {
    const keys = { accumulate };
    const [unbroken, broken] = [`${stage}-unbroken-${accumulate}`, `${stage}-broken-${accumulate}`];
    const whole = await world.train(stage, unbroken, keys);
    await world.trainUntil(3, stage, broken, keys);
    const held = await openSafetensors(join(world.root, broken, "checkpoint.safetensors"));
    expect(held.metadata["step"]).toBe("3");
    const resumed = await world.train(stage, broken, keys, { resume: true });
    expect((await checkpoint(broken)).equals(await checkpoint(unbroken))).toBe(true);
    expect(resumed.last["loss"]).toBe(whole.last["loss"]);
    const withoutTime = async (run: string) =>
      (await readLog(join(world.root, run))).map(({ secondsPerStep: _, ...line }) => line);
    expect(await withoutTime(broken)).toEqual(await withoutTime(unbroken));
  });
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
