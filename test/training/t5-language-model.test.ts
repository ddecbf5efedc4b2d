/** `blip2 train language-model` with a T5: every form learns, goes on where it was stopped, and leaves what others read. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { T5, t5ConfigSchema } from "../../src/models/language/t5.js";
import { Parameters } from "../../src/nn/parameters.js";
import { loadTokenizer } from "../../src/text/tokenizer.js";
import { runRecipe } from "../../src/recipes/run.js";
import { languageModel } from "../../src/recipes/scenes-parts/language-model.js";
import { readLog } from "../../src/training/run-log.js";
import { t5LanguageModelConfigSchema } from "../../src/recipes/scenes-parts/t5.js";
import { blip2 } from "../cli/captured.js";
import { makeTinyWorld, type Overrides, type TinyWorld } from "./tiny-world.js";

let world: TinyWorld;
beforeAll(async () => {
  world = await makeTinyWorld();
}, 120_000);
afterAll(() => world.remove());

const model = { model_type: "t5", d_model: 16, d_kv: 8, d_ff: 24, num_heads: 2, num_layers: 1 };
const at = (run: string): string => join(world.root, run);
const configOf = (overrides: Overrides = {}) => ({
  data: world.data,
  model,
  steps: 12,
  batchSize: 4,
  accumulate: 2,
  shortRows: 2,
  learningRate: { peak: 3e-3, warmupSteps: 2 },
  logEvery: 1,
  evaluateEvery: 12,
  seed: 3,
  ...overrides,
});

let count = 0;
async function train(run: string, overrides: Overrides = {}) {
  const config = at(`config-${++count}.json`);
  await writeFile(config, JSON.stringify(configOf(overrides)));
  return blip2(["train", "language-model", "--config", config, "--out", at(run), "--threads", "1", "--json"]);
}

const forms = ["dialogues", "blanks", "questions", "captions"] as const;
const only = (form: string): Overrides => ({
  forms: Object.fromEntries(forms.map((each) => [each, each === form ? 1 : 0])),
});

describe("a run", () => {
  it.each(forms)("learns from %s alone", { timeout: 120_000 }, async (form) => {
    expect(await train(`run-${form}`, only(form))).toMatchObject({ code: 0, stderr: "" });
    const losses = (await readLog(at(`run-${form}`))).flatMap((line) =>
      "learningRate" in line ? [Number(line["loss"])] : [],
    );
    expect(losses).toHaveLength(12);
    const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b) / values.length;
    expect(mean(losses.slice(-3))).toBeLessThan(mean(losses.slice(0, 3)));
  });

  it("learns from condensed descriptions, resumed as unbroken", { timeout: 120_000 }, async () => {
    const lossesOf = async (run: string): Promise<number[]> =>
      (await readLog(at(run))).flatMap((line) => ("learningRate" in line ? [Number(line["loss"])] : []));
    const condensed = { condensedShare: 0.7, condensedScale: 8 };
    expect(await train("condensed", condensed)).toMatchObject({ code: 0, stderr: "" });
    expect(await train("plain", { steps: 1 })).toMatchObject({ code: 0 });
    const losses = await lossesOf("condensed");
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    expect(losses[0]).not.toBe((await lossesOf("plain"))[0]);
    const config = t5LanguageModelConfigSchema.parse(configOf(condensed));
    const options = { out: at("condensed-twice"), threads: 1 };
    await runRecipe(languageModel, config, { ...options, resume: false, until: 5 });
    await runRecipe(languageModel, config, { ...options, resume: true });
    const [once, twice] = await Promise.all(
      ["condensed", "condensed-twice"].map((run) => readFile(join(at(run), "checkpoint.safetensors"))),
    );
    expect(once!.equals(twice!)).toBe(true);
  });

  it("resumed equals unbroken, to the bit", { timeout: 120_000 }, async () => {
    await train("whole");
    const controller = new AbortController();
    const config = t5LanguageModelConfigSchema.parse(configOf());
    const options = { out: at("broken"), threads: 1 };
    const onProgress = ({ step }: { step: number }): void => {
      if (step === 5) controller.abort();
    };
    const stopped = runRecipe(languageModel, config, {
      ...options,
      resume: false,
      signal: controller.signal,
      onProgress,
    });
    await expect(stopped).rejects.toThrow(/step 5/);
    await runRecipe(languageModel, config, { ...options, resume: true });
    const [broken, whole] = await Promise.all(
      ["broken", "whole"].map((run) => readFile(join(at(run), "checkpoint.safetensors"))),
    );
    expect(broken!.equals(whole!)).toBe(true);
  });

  it("leaves a T5 v1.1 with its tokenizer, which evaluate measures as the run did", async () => {
    const { config, weights, generationConfig } = await readModelFolder(join(at("whole"), "model"));
    const tokenizer = await loadTokenizer(join(at("whole"), "model"));
    expect(config).toMatchObject({
      architectures: ["T5ForConditionalGeneration"],
      model_type: "t5",
      tie_word_embeddings: false,
      vocab_size: tokenizer.vocabularySize,
    });
    expect(config).not.toHaveProperty("positionStd");
    expect(generationConfig).toEqual({ decoder_start_token_id: 0, eos_token_id: 1, pad_token_id: 0 });
    const parameters = new Parameters(() => false);
    const t5 = new T5(t5ConfigSchema.parse(config), parameters.scope(), weights.tensors);
    expect(t5.wordTable).toBe("shared.weight");
    expect([...weights.tensors.keys()].sort()).toEqual([...parameters.shapes.keys()].sort());

    const words = ["--data", world.data, "--model", join(at("whole"), "model"), "--threads", "1", "--json"];
    const { code, stdout } = await blip2(["evaluate", "language-model", ...words]);
    expect(code).toBe(0);
    const measured = JSON.parse(stdout) as Record<string, number>;
    const logged = (await readLog(at("whole"))).find((line) => "answers" in line)!;
    expect(Object.keys(measured).slice(2)).toEqual(Object.keys(logged).slice(1));
    // The weights are stored in half precision: an answer may tip over.
    expect(Math.abs(measured["answers"]! - Number(logged["answers"]))).toBeLessThan(0.15);
  });

  it("goes on from an earlier one", { timeout: 120_000 }, async () => {
    const first = await runRecipe(languageModel, t5LanguageModelConfigSchema.parse(configOf({ steps: 2 })), {
      out: at("first"),
      resume: false,
      threads: 1,
    });
    const still = configOf({ steps: 1, start: at("first"), learningRate: { peak: 1e-12 }, seed: 9 });
    const second = await runRecipe(languageModel, t5LanguageModelConfigSchema.parse(still), {
      out: at("second"),
      resume: false,
      threads: 1,
    });
    for (const [name, value] of second.weights) {
      const before = first.weights.get(name)!;
      const off = (value.data as Float32Array).map((x, i) => Math.abs(x - Number(before.data[i])));
      expect(Math.max(...off), name).toBeLessThan(1e-6);
    }
  });
});

describe("refuses", () => {
  it.each([
    ["unknown keys, also those of an OPT's training", { captionShare: 0.5 }, /unknown captionShare/],
    ["no form at all", { forms: { dialogues: 0, questions: 0, captions: 0 } }, /one form at least/],
    ["a size of what is not condensed", { condensedScale: 4 }, /condensedScale.*give condensedShare too/],
    ["a focus that no text has", { focus: ["smell"] }, /no training text asks a question of type smell/],
    [
      "rows without room for an answer",
      { maxTextLength: 8, ...only("blanks") },
      /maxTextLength is 8, too short/,
    ],
  ])("%s", async (_, overrides, message) => {
    const { code, stderr } = await train(`refused-${count}`, overrides);
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
  });
});
