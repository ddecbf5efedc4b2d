/** What happens to runs: stopped before they begin, damaged, begun twice, on data that change or are broken. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, readdir, readFile, rename, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { openSafetensors } from "../../src/checkpoints/safetensors.js";
import { InterruptedError, UserError } from "../../src/errors.js";
import { slots } from "../../src/training/optimizer.js";
import { readLog } from "../../src/training/run-log.js";
import { makeTinyWorld, trainBefore, type Overrides, type TinyWorld } from "./tiny-world.js";

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
let world: TinyWorld;
const at = (...names: readonly string[]): string => join(world.root, ...names);
beforeAll(async () => {
  world = await makeTinyWorld();
  await trainBefore(world, "stage2");
}, 120_000);
afterAll(() => world.remove());

const refusal = async (work: Promise<unknown>): Promise<string> => {
  const error: unknown = await work.then(
    () => new Error("it was not refused"),
    (failed: unknown) => failed,
  );
  expect(error, String(error)).toBeInstanceOf(UserError);
  return (error as UserError).message;
};

/** Data of its own, which a test may change. */
async function ownData(name: string): Promise<string> {
  const data = at(name);
  await cp(world.data, data, { recursive: true });
  await rm(join(data, "features"), { recursive: true, force: true });
  return data;
}

describe("stopping before the first step", () => {
  it.each(["stage1", "stage2"] as const)("%s ends in good order", { timeout: 120_000 }, async (stage) => {
    // From the first sign of life to where the first batch is being made.
    for (const delay of [0, 60]) {
      const out = at(`${stage}-stopped-${delay}`);
      const controller = new AbortController();
      setTimeout(() => controller.abort(), delay);
      const ended = await world
        .train(stage, `${stage}-stopped-${delay}`, { steps: 2000 }, { signal: controller.signal })
        .catch((error: unknown) => error);
      expect(ended, `${delay} ms`).toBeInstanceOf(InterruptedError);
      await rm(out, { recursive: true, force: true });
    }
    const already = world.train(stage, `${stage}-never`, {}, { signal: AbortSignal.abort() });
    await expect(already).rejects.toBeInstanceOf(InterruptedError);
  });

  it("by a signal from outside ends with 130, and can be resumed", { timeout: 120_000 }, async () => {
    const config = await world.configFile("stopped", "stage2", { steps: 400 });
    for (const delay of [350, 700]) {
      const out = at(`signalled-${delay}`);
      const words = ["train", "stage2", "--config", config, "--out", out, "--threads", "1"];
      const child = spawn(process.execPath, ["--import", "tsx", main, ...words], {
        stdio: ["ignore", "ignore", "pipe"],
      });
      let stderr = "";
      child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
      // Once it is past its start: before, a signal has its usual meaning.
      setTimeout(() => child.kill("SIGTERM"), delay);
      const [code, signal] = (await once(child, "close")) as [number | null, string | null];
      expect([130, "SIGTERM"], `${delay} ms: ${stderr}`).toContain(code ?? signal);
      expect(stderr).not.toMatch(/EBADF|internal error/);
    }
  });
});

describe("data that change", () => {
  const train = (data: string, out: string, more: Overrides = {}, resume = false) =>
    world.train("stage1", out, { data, steps: 2, ...more }, { resume });

  it("make the features anew, and are noticed by a run that is resumed", { timeout: 120_000 }, async () => {
    const data = await ownData("changing");
    const lines: string[] = [];
    const stores = async (): Promise<number> => (await readdir(join(data, "features"))).length;
    await world.train("stage1", "first", { data, steps: 2 }, { log: (line) => lines.push(line) });
    expect(await stores()).toBe(2);
    expect(lines.join("\n")).toMatch(/image features of 40 pictures: 5 x 16 each, 0\.0 MB in /);
    await train(data, "again");
    expect(await stores()).toBe(2);
    // A picture in the middle, of the same name.
    const images = join(data, "images", "train");
    await cp(join(images, "000003.png"), join(images, "000020.png"));
    await train(data, "replaced");
    expect(await stores()).toBe(3);
    expect(await refusal(train(data, "first", {}, true))).toMatch(
      /was started with other data \(split train changed since\).*"start"/,
    );
    // Another preparation of the same pictures.
    const vision = at("other-vision");
    await cp(at("vision", "model"), vision, { recursive: true });
    const file = join(vision, "preprocessor_config.json");
    const json = JSON.parse(await readFile(file, "utf8")) as object;
    await writeFile(file, JSON.stringify({ ...json, image_mean: [0.5, 0.5, 0.5] }));
    await train(data, "prepared", { vision });
    expect(await stores()).toBe(5);
    // Another encoder.
    await world.train("vision", "vision-other", { steps: 1, seed: 8 });
    await train(data, "encoded", { vision: at("vision-other", "model") });
    expect(await stores()).toBe(7);
    // A caption.
    const captions = join(data, "captions_validation.json");
    await writeFile(captions, (await readFile(captions, "utf8")).replace(/"caption": ?"/, "$&x "));
    expect(await refusal(train(data, "encoded", { vision: at("vision-other", "model") }, true))).toMatch(
      /split validation changed since/,
    );
    // A time alone: nobody can tell without looking.
    const [name] = await readdir(join(data, "images", "validation"));
    await utimes(join(data, "images", "validation", name!), new Date(0), new Date(0));
    await train(data, "touched");
    expect(await stores()).toBe(8);
  });

  it("lie where they are told to, and may be named by whole paths", { timeout: 120_000 }, async () => {
    const data = await ownData("whole-names");
    for (const split of ["train", "validation"]) {
      const file = join(data, `captions_${split}.json`);
      const json = JSON.parse(await readFile(file, "utf8")) as { images: { file_name: string }[] };
      for (const image of json.images) image.file_name = join(world.data, image.file_name);
      await writeFile(file, JSON.stringify(json));
    }
    await rm(join(data, "images"), { recursive: true });
    await train(data, "named-run", { features: at("elsewhere") });
    expect(await readdir(at("elsewhere"))).toHaveLength(2);
    expect(await readdir(data)).not.toContain("features");
  });

  it("may have broken pictures up to the share that is allowed", { timeout: 120_000 }, async () => {
    const data = await ownData("broken");
    for (const name of ["000007.png", "000031.png"])
      await writeFile(join(data, "images", "train", name), "no picture");
    for (const stage of ["stage1", "vision"] as const) {
      const message = await refusal(world.train(stage, `${stage}-broken`, { data, steps: 1 }));
      expect(message).toMatch(/2 of 40 pictures cannot be read, more than the share of 0\.01/);
      expect(message).toMatch(/000007\.png, .*000031\.png; mend or remove them, or allow more/);
      const lines: string[] = [];
      const allowed = { data, steps: 3, brokenPictures: 0.05 };
      await world.train(stage, `${stage}-allowed`, allowed, { log: (line) => lines.push(line) });
      expect(lines.join("\n")).toMatch(/2 of 40 pictures cannot be read and are left out/);
      for (const { loss } of await readLog(at(`${stage}-allowed`)))
        if (loss !== undefined) expect(Number.isFinite(Number(loss))).toBe(true);
    }
  });

  it("tell of empty captions and of pictures listed twice", { timeout: 120_000 }, async () => {
    const data = await ownData("empty");
    const file = join(data, "captions_train.json");
    const json = JSON.parse(await readFile(file, "utf8")) as {
      images: object[];
      annotations: { caption: string }[];
    };
    json.annotations[0]!.caption = "  ";
    json.annotations[5]!.caption = "";
    json.images.push(json.images[2]!);
    await writeFile(file, JSON.stringify(json));
    const lines: string[] = [];
    await world.train("stage1", "empty-run", { data, steps: 1 }, { log: (line) => lines.push(line) });
    expect(lines.join("\n")).toMatch(
      /captions_train\.json: 2 empty texts and 1 picture that is listed twice left out/,
    );
  });
});

describe("what is frozen or told of pictures, changed under a run", () => {
  const keys = { steps: 4 };
  const begin = (stage: "vision" | "stage1" | "stage2", out: string, more: Overrides) =>
    world.train(stage, out, { ...keys, ...more }, { until: 2 });
  const resume = (stage: "vision" | "stage1" | "stage2", out: string, more: Overrides) =>
    world.train(stage, out, { ...keys, ...more }, { resume: true });

  it("is noticed: scenes", { timeout: 60_000 }, async () => {
    const data = await ownData("other-scenes");
    await begin("vision", "vision-scenes", { data });
    const file = join(data, "scenes_train.json");
    await writeFile(file, (await readFile(file, "utf8")).replaceAll('"red"', '"blue"'));
    expect(await refusal(resume("vision", "vision-scenes", { data }))).toMatch(
      /scenes_train\.json changed since/,
    );
  });

  it("is noticed: models; where and when they were copied does not count", { timeout: 120_000 }, async () => {
    const [vision, stage1, languageModel] = ["vision", "stage1", "language-model"].map((name) =>
      at(`own-${name}`),
    );
    const copy = (from: string, to: string): Promise<void> =>
      cp(at(from, "model"), to, { recursive: true, force: true });
    await copy("vision", vision!);
    await copy("stage1", stage1!);
    await copy("language-model", languageModel!);
    await begin("stage1", "stage1-models", { vision });
    await begin("stage2", "stage2-models", { stage1, languageModel });
    const touched = join(languageModel!, "model.safetensors");
    await utimes(touched, new Date(0), new Date(0));
    await world.train(
      "stage2",
      "stage2-models",
      { ...keys, stage1, languageModel },
      { resume: true, until: 3 },
    );

    await world.train("language-model", "retrained", { steps: 1, seed: 4 });
    await copy("retrained", languageModel!);
    expect(await refusal(resume("stage2", "stage2-models", { stage1, languageModel }))).toMatch(
      /\(the model in languageModel changed since\)/,
    );
    await copy("language-model", languageModel!);
    const prepared = join(stage1!, "preprocessor_config.json");
    const json = JSON.parse(await readFile(prepared, "utf8")) as object;
    await writeFile(prepared, JSON.stringify({ ...json, image_std: [0.5, 0.5, 0.5] }));
    expect(await refusal(resume("stage2", "stage2-models", { stage1, languageModel }))).toMatch(
      /\(the image encoder in stage1 changed since\)/,
    );
    await world.train("vision", "vision-retrained", { steps: 1, seed: 4 });
    await copy("vision-retrained", vision!);
    expect(await refusal(resume("stage1", "stage1-models", { vision }))).toMatch(
      /\(the image encoder in vision changed since\)/,
    );
  });
});

describe("batches that would learn from false examples", () => {
  it.each(["stage1", "vision"] as const)("of one file under many ids are refused (%s)", async (stage) => {
    const data = await ownData(`one-file-${stage}`);
    const file = join(data, "captions_train.json");
    const json = JSON.parse(await readFile(file, "utf8")) as { images: { file_name: string }[] };
    // Three files in all, and a name may be spelt in several ways.
    json.images.forEach(
      (image, i) => (image.file_name = `images/${i < 20 ? "." : "train/.."}/train/00000${i % 3}.png`),
    );
    await writeFile(file, JSON.stringify(json));
    const lines: string[] = [];
    const options = { log: (line: string) => lines.push(line) };
    expect(await refusal(world.train(stage, `one-file-${stage}`, { data, steps: 1 }, options))).toMatch(
      /batchSize is 4, the data have 3 pictures/,
    );
    expect(lines.join("\n")).toMatch(/37 of 40 pictures are files that stand under another id too/);
    const { last } = await world.train(stage, `few-${stage}`, { data, steps: 2, batchSize: 3 }, options);
    expect(Number.isFinite(Number(last["loss"]))).toBe(true);
  });

  it.each<[string, "stage1" | "vision", Overrides, RegExp]>([
    ["of one pair", "stage1", { batchSize: 1 }, /batchSize is 1: at least 2 is required/],
    ["in parts of one", "stage1", { batchSize: 4, accumulate: 4 }, /batchSize \/ accumulate is 1/],
    ["larger than the data", "stage1", { batchSize: 64 }, /batchSize is 64, the data have 40 pictures/],
    ["of one picture", "vision", { batchSize: 1 }, /at least 2 is required/],
    ["larger than the data", "vision", { batchSize: 80 }, /the data have 40 pictures/],
  ])("%s are refused (%s)", async (_, stage, overrides, message) => {
    expect(await refusal(world.train(stage, "false", { steps: 1, ...overrides }))).toMatch(message);
  });

  it("do not occur across passes either", async () => {
    const { ShuffledPasses } = await import("../../src/data/shuffle.js");
    const passes = new ShuffledPasses(10, 3, 4);
    for (let part = 0; part < 50; part++) {
      const items = [0, 1, 2, 3].map((i) => passes.at(part * 4 + i).item);
      expect(new Set(items).size).toBe(4);
    }
    // What one pass leaves out another has.
    const seen = new Set(Array.from({ length: 80 }, (_, i) => passes.at(i).item));
    expect(seen.size).toBe(10);
  });

  it.each([["itm"], ["itm", "itg"], ["itg"]])(
    "matching and generation are learnt without contrast too: %s %s",
    { timeout: 60_000 },
    async (...objectives) => {
      const { last } = await world.train("stage1", `only-${objectives.join("-")}`, { steps: 2, objectives });
      expect(Number.isFinite(Number(last["loss"]))).toBe(true);
    },
  );
});

describe("sizes that do not divide", () => {
  const model = { hidden_size: 16, num_attention_heads: 3 };
  it.each<[Parameters<TinyWorld["train"]>[0], Overrides, RegExp]>([
    [
      "stage1",
      { qformer: { ...model, num_hidden_layers: 1, intermediate_size: 8 } },
      /qformer\.hidden_size is 16/,
    ],
    ["language-model", { model: { ...model, num_hidden_layers: 1, ffn_dim: 8 } }, /model\.hidden_size is 16/],
    [
      "vision",
      {
        model: {
          hidden_size: 16,
          num_attention_heads: 2,
          intermediate_size: 8,
          num_hidden_layers: 2,
          image_size: 25,
          patch_size: 12,
        },
      },
      /model\.image_size is 25: 25 is not a multiple of patch_size, which is 12/,
    ],
    [
      "language-model",
      {
        model: {
          model_type: "t5",
          d_model: 16,
          d_kv: 8,
          d_ff: 32,
          num_heads: 2,
          num_layers: 1,
          relative_attention_max_distance: 16,
        },
      },
      /model\.relative_attention_max_distance is 16: .* half of relative_attention_num_buckets, which is 32/,
    ],
  ])("are named by their keys (%s)", async (stage, overrides, message) => {
    expect(await refusal(world.train(stage, "sizes", overrides))).toMatch(message);
  });

  it.each<[string, object, RegExp]>([
    ["another size", { size: { height: 36, width: 36 } }, /size is 36 x 36 .* image_size 24/],
    ["no square", { size: { height: 24, width: 36 } }, /size is 24 x 36 .* image_size 24/],
    ["none", { do_resize: false }, /\d{6}\.png: is 96 x 96, 24 x 24 is required where do_resize is false/],
  ])("of pictures and their encoder are named by their files: %s", async (name, keys, message) => {
    const vision = at(`vision-of-${name}`);
    await cp(at("vision", "model"), vision, { recursive: true });
    const file = join(vision, "preprocessor_config.json");
    await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, "utf8")), ...keys }));
    expect(await refusal(world.train("stage1", `sized-${name}`, { vision, steps: 1 }))).toMatch(message);
  });
});

describe("a run's folder", () => {
  const keys = { steps: 6, checkpointEvery: 2, evaluateEvery: 6 };
  const resume = async (out: string): Promise<string[]> => {
    const lines: string[] = [];
    await world.train("stage2", out, keys, { resume: true, log: (line) => lines.push(line) });
    return lines;
  };
  const weights = async (out: string): Promise<unknown> =>
    (await openSafetensors(at(out, "checkpoint.safetensors"))).read(slots.weight("query_tokens"));
  beforeAll(() => world.train("stage2", "whole", keys), 60_000);

  /** A run that stopped after four steps. */
  async function half(out: string): Promise<string> {
    await world.trainUntil(4, "stage2", out, keys);
    return at(out);
  }

  it("goes on behind a garbled line of the log, which is kept aside", { timeout: 60_000 }, async () => {
    const run = await half("garbled");
    const log = join(run, "log.jsonl");
    await writeFile(log, `${"\0".repeat(40)}\n${await readFile(log, "utf8")}{"step": 4, "lo`);
    expect((await resume("garbled")).join("\n")).toMatch(
      /1 line is garbled and set aside in log\.garbled\.txt/,
    );
    expect(await readFile(join(run, "log.garbled.txt"), "utf8")).toContain("\0");
    const told = (lines: readonly object[]) => lines.map((line) => ({ ...line, secondsPerStep: 0 }));
    expect(told(await readLog(run))).toEqual(told(await readLog(at("whole"))));
    expect(await weights("garbled")).toEqual(await weights("whole"));
  });

  it.each(["cut", "changed"])(
    "goes on from the checkpoint before one that is %s",
    { timeout: 60_000 },
    async (how) => {
      const run = await half(`checkpoint-${how}`);
      const file = join(run, "checkpoint.safetensors");
      const bytes = await readFile(file);
      if (how === "cut") await truncate(file, bytes.length - 5);
      else {
        bytes[bytes.length - 3]! ^= 4;
        await writeFile(file, bytes);
      }
      const lines = (await resume(`checkpoint-${how}`)).join("\n");
      expect(lines).toMatch(/checkpoint\.safetensors/);
      expect(lines).toMatch(/checkpoint\.previous\.safetensors is taken in its place, of step 2/);
      expect(await weights(`checkpoint-${how}`)).toEqual(await weights("whole"));
    },
  );

  it("goes on from a checkpoint that was written but not yet in its place", { timeout: 60_000 }, async () => {
    const run = await half("renaming");
    await rename(join(run, "checkpoint.safetensors"), join(run, "checkpoint.new.safetensors"));
    await resume("renaming");
    expect(await weights("renaming")).toEqual(await weights("whole"));
  });

  it(
    "says that it begins again without one, and refuses where none is whole",
    { timeout: 60_000 },
    async () => {
      const run = await half("lost");
      const names = ["checkpoint.safetensors", "checkpoint.previous.safetensors"];
      for (const name of names) await writeFile(join(run, name), "nothing");
      expect(await refusal(resume("lost"))).toMatch(/no checkpoint of this run is whole/);
      for (const name of names) await rm(join(run, name));
      expect((await resume("lost")).join("\n")).toMatch(
        /holds no checkpoint: the run begins again at step 0/,
      );
      expect(await weights("lost")).toEqual(await weights("whole"));
    },
  );

  it("serves one process at a time", { timeout: 60_000 }, async () => {
    const running = world.train("stage2", "shared", { steps: 30 });
    await new Promise<void>((resolve) => {
      const look = (): void =>
        void readdir(at("shared")).then(
          (names) => (names.includes(".blip2-run.lock") ? resolve() : setTimeout(look, 5)),
          () => setTimeout(look, 5),
        );
      look();
    });
    expect(await refusal(world.train("stage2", "shared", { steps: 30 }, { resume: true }))).toMatch(
      /another process trains in this folder/,
    );
    await running;
    expect(await readdir(at("shared"))).not.toContain(".blip2-run.lock");
  });
});

describe("where the models come from", () => {
  it("stage 2 takes the language model out of a whole BLIP-2", { timeout: 120_000 }, async () => {
    const keys = { steps: 3 };
    const alone = await world.train("stage2", "from-alone", keys);
    const whole = await world.train("stage2", "from-whole", { ...keys, languageModel: alone.model });
    expect([...whole.weights.keys()]).toEqual([...alone.weights.keys()]);
    for (const [name, { data }] of whole.weights) expect(data, name).toEqual(alone.weights.get(name)!.data);
  });

  it(
    "places count from the configuration; those of the command are taken with a notice",
    { timeout: 120_000 },
    async () => {
      const { runConfigFile } = await import("../../src/recipes/run.js");
      const { recipeOf } = await import("../../src/recipes/index.js");
      await mkdir(at("configs"));
      const config = {
        ...world.config("stage2", { steps: 1 }),
        data: "../scenes",
        stage1: "../stage1/model",
        languageModel: "../language-model/model",
      };
      const run = async (name: string, json: object): Promise<string[]> => {
        const file = at("configs", `${name}.json`);
        await writeFile(file, JSON.stringify(json));
        const lines: string[] = [];
        const options = { out: at(`placed-${name}`), resume: false, threads: 1 };
        await runConfigFile(await recipeOf("stage2"), file, { ...options, log: (line) => lines.push(line) });
        return lines;
      };
      expect((await run("beside", config)).join("\n")).not.toMatch(/later versions/);
      const here = vi.spyOn(process, "cwd").mockReturnValue(world.root);
      try {
        expect((await run("old", { ...config, stage1: "stage1/model" })).join("\n")).toMatch(
          /old\.json: stage1 is stage1\/model, which is found from the folder of the command.*write \.\.\/stage1\/model instead/,
        );
      } finally {
        here.mockRestore();
      }
      expect(await refusal(run("none", { ...config, data: "nowhere" }))).toMatch(
        /none\.json: data is nowhere: .*configs\/nowhere is not there; places count from/,
      );
      expect(await refusal(run("moved", { ...config, promptScale: 2, statements: 4 }))).toMatch(
        /promptScale is 2: has moved to softPrompt\.limit; statements is 4: has moved to statements\.perRow/,
      );
    },
  );
});
