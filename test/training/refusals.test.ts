/** `blip2 train` on the command line: what it prints and writes, and how it refuses what cannot work. */
import { execFileSync } from "node:child_process";
import { appendFile, cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openSafetensors } from "../../src/checkpoints/safetensors.js";
import { readLog } from "../../src/training/run-log.js";
import { blip2 } from "../cli/captured.js";
import { makeTinyWorld, type Overrides, type StageName, type TinyWorld } from "./tiny-world.js";

let world: TinyWorld;
beforeAll(async () => {
  world = await makeTinyWorld();
}, 120_000);
afterAll(() => world.remove());

let count = 0;
/** Trains on the command line into a run of its own, unless told another. */
async function train(
  stage: StageName,
  overrides: Overrides = {},
  words: readonly string[] = [],
  signal?: AbortSignal,
) {
  const config = await world.configFile(`config-${++count}`, stage, overrides);
  const out = words.includes("--out") ? [] : ["--out", join(world.root, `run-${count}`)];
  return blip2(
    ["train", stage, "--config", config, "--threads", "1", ...out, ...words],
    signal && { signal },
  );
}

/** A copy of the data with something changed. */
async function changedData(change: (folder: string) => Promise<void>): Promise<string> {
  const folder = join(world.root, `data-${++count}`);
  await cp(world.data, folder, { recursive: true });
  await change(folder);
  return folder;
}

interface CaptionFile {
  images: unknown[];
  annotations: unknown[];
}

async function changeJson(path: string, change: (json: CaptionFile) => void): Promise<void> {
  const json = JSON.parse(await readFile(path, "utf8")) as CaptionFile;
  change(json);
  await writeFile(path, JSON.stringify(json));
}

describe("a run that goes well", () => {
  it("ends with one line of numbers, and leaves the model and the curves", async () => {
    const out = join(world.root, "well");
    const { code, stdout, stderr } = await train("language-model", { steps: 3 }, ["--out", out, "--json"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const lines = stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({ step: 3, model: join(out, "model") });
    for (const name of ["loss", "answers", "answers: color"]) expect(lines[0]![name]).toBeTypeOf("number");
    expect((await readdir(out)).sort()).toEqual([
      "checkpoint.safetensors",
      "config.json",
      "curves.png",
      "curves.svg",
      "data.json",
      "log.jsonl",
      "model",
    ]);
    expect((await sharp(join(out, "curves.png")).metadata()).width).toBeGreaterThan(500);
  });

  it("says the same again when it is resumed although it was done", async () => {
    const out = join(world.root, "well");
    const again = await train("language-model", { steps: 3 }, ["--out", out, "--json", "--resume"]);
    expect(again).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(again.stdout)).toMatchObject({
      step: 3,
      loss: expect.any(Number) as number,
      answers: expect.any(Number) as number,
    });
  });

  it("refuses to start over an older run, and to resume with another configuration", async () => {
    const out = join(world.root, "well");
    const before = await readdir(out);
    const over = await train("language-model", { steps: 3 }, ["--out", out]);
    expect(over.code).toBe(1);
    expect(over.stderr).toBe(
      `blip2: ${out} holds another run: name a new folder with --out, or continue that run with --resume\n`,
    );
    const other = await train("language-model", { steps: 4, seed: 9 }, ["--out", out, "--resume"]);
    expect(other.code).toBe(1);
    expect(other.stderr).toContain("was started with another configuration (seed, steps differ)");
    expect(await readdir(out)).toEqual(before);
  });

  it("stops on Ctrl-C with a checkpoint and 130", { timeout: 120_000 }, async () => {
    const out = join(world.root, "stopped");
    const controller = new AbortController();
    const watch = setInterval(() => {
      void readLog(out).then((log) => {
        if (log.length >= 2) controller.abort();
      });
    }, 5);
    const { code, stderr, stdout } = await train(
      "language-model",
      { steps: 2000 },
      ["--out", out],
      controller.signal,
    );
    clearInterval(watch);
    const step = Number(
      /stopped at step (\d+); continue with --resume\nblip2: interrupted\n$/.exec(stderr)?.[1],
    );
    expect({ code, stdout }).toEqual({ code: 130, stdout: "" });
    expect((await openSafetensors(join(out, "checkpoint.safetensors"))).metadata["step"]).toBe(String(step));
    expect(step).toBeGreaterThanOrEqual(2);
  });
});

describe("refuses", () => {
  it("what the command line lacks or has too much", async () => {
    expect(await blip2(["train"])).toMatchObject({ code: 2 });
    expect(await blip2(["train", "stage3", "--config", "x", "--out", "y"])).toMatchObject({ code: 2 });
    expect(await blip2(["train", "stage1", "--out", "y"])).toMatchObject({ code: 2 });
  });

  it("a folder that is not empty, or that holds no run to resume", async () => {
    const out = join(world.root, "full");
    await mkdir(out);
    await writeFile(join(out, "notes.txt"), "mine");
    expect((await train("language-model", {}, ["--out", out])).stderr).toContain(`${out} is not empty`);
    expect((await train("language-model", {}, ["--out", out, "--resume"])).stderr).toContain(
      `${out} holds no run to resume`,
    );
    expect(await readdir(out)).toEqual(["notes.txt"]);
  });

  it.each([
    [
      "an unknown key",
      {
        learnRate: 1,
        model: { hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, ffn_dim: 32, heads: 3 },
      },
      /unknown learnRate.*|unknown model\.heads/,
    ],
    ["a missing key", { steps: undefined }, /steps is missing: /],
    ["a wrong value", { batchSize: 0 }, /batchSize is 0: /],
    [
      "parts that do not divide the batch",
      { batchSize: 5, accumulate: 2 },
      /batchSize is 5: must be a multiple of accumulate/,
    ],
  ])("%s", async (_, overrides, message) => {
    const { code, stderr } = await train("language-model", overrides);
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
    expect(stderr.match(/\n/g)).toHaveLength(1);
  });

  it("names every unknown key at once", async () => {
    const { stderr } = await train("language-model", { learnRate: 1, optimizer: { momentum: 1 } });
    expect(stderr).toContain("learnRate");
    expect(stderr).toContain("optimizer.momentum");
  });

  it("a configuration that is not there, and one that is not JSON", async () => {
    const words = ["--out", join(world.root, "none")];
    expect((await blip2(["train", "vision", "--config", "/nowhere.json", ...words])).stderr).toContain(
      "/nowhere.json: this file does not exist",
    );
    await writeFile(join(world.root, "half.json"), "{");
    expect(
      (await blip2(["train", "vision", "--config", join(world.root, "half.json"), ...words])).stderr,
    ).toContain("half.json: not JSON");
  });

  it("a data set without pictures, or whose pictures are not there", async () => {
    const captions = (folder: string) => join(folder, "captions_train.json");
    const failure = async (change: (folder: string) => Promise<void>) => {
      const data = await changedData(change);
      const { code, stderr } = await train("vision", { data });
      expect(code).toBe(1);
      return stderr.replaceAll(data, "DATA");
    };
    const empty = await failure((folder) =>
      changeJson(captions(folder), (json) => ([json.images, json.annotations] = [[], []])),
    );
    expect(empty).toContain("DATA/captions_train.json: the data set is empty");
    const orphans = await failure((folder) =>
      changeJson(captions(folder), (json) => json.images.splice(0, 2)),
    );
    expect(orphans).toContain('2 pictures have captions but are not listed under "images": 0, 1');
    const missing = await failure((folder) => rm(join(folder, "images", "train", "000003.png")));
    expect(missing).toContain("1 of 40 pictures are not there: DATA/images/train/000003.png");
    const broken = await failure((folder) => writeFile(captions(folder), "{"));
    expect(broken).toContain("DATA/captions_train.json: not JSON");
  });

  it("a text corpus that is empty or has a broken line", async () => {
    const failure = async (change: (file: string) => Promise<void>) => {
      const data = await changedData((folder) => change(join(folder, "text_train.jsonl")));
      return (await train("language-model", { data })).stderr.replaceAll(data, "DATA");
    };
    expect(await failure((file) => writeFile(file, ""))).toContain("DATA/text_train.jsonl is empty");
    expect(await failure((file) => appendFile(file, '{"description": '))).toContain(
      "DATA/text_train.jsonl, line 61: not JSON",
    );
    expect(
      await failure((file) => appendFile(file, '{"description":"x","captions":[],"questions":[]}\n')),
    ).toMatch(/line 61: captions is \[\]: /);
  });

  it("a picture that cannot be read, by name", async () => {
    const data = await changedData((folder) =>
      writeFile(join(folder, "images", "train", "000005.png"), "no picture"),
    );
    const { code, stderr } = await train("vision", { data, batchSize: 40, steps: 1 });
    expect(code).toBe(1);
    expect(stderr).toContain("000005.png");
    expect(stderr).not.toContain("internal error");
  });
});

it("stops when the weights blow up: exit 1, and the step is named", async () => {
  const { code, stdout, stderr } = await train("language-model", {
    steps: 30,
    learningRate: { peak: 1e30 },
    badStepsAllowed: 2,
  });
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).toMatch(
    /blip2: training stopped at step \d+: gradients were not finite in 3 steps in a row; lower the learning rate/,
  );
});

const mayMount = process.platform === "linux" && process.getuid?.() === 0 && canMount();

function call(program: string, ...words: string[]): void {
  execFileSync(program, words, { stdio: "ignore" });
}

function canMount(): boolean {
  try {
    call("unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt");
    return true;
  } catch {
    return false;
  }
}

it.runIf(mayMount)(
  "a full disk ends the run with one sentence; with room again it goes on",
  { timeout: 120_000 },
  async () => {
    const disk = join(world.root, "disk");
    await mkdir(disk);
    call("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk);
    try {
      const out = join(disk, "run");
      const full = await train("language-model", {}, ["--out", out]);
      expect(full.code).toBe(1);
      expect(full.stderr).toMatch(
        /^blip2: .*checkpoint\.new\.safetensors: no space is left on this disk; [^\n]*\n$/,
      );
      expect((await readdir(out)).sort()).toEqual(["config.json", "data.json", "log.jsonl"]);
      call("mount", "-o", "remount,size=16m", disk);
      expect(await train("language-model", {}, ["--out", out, "--resume"])).toMatchObject({ code: 0 });
      expect(await readdir(out)).toContain("model");
    } finally {
      call("umount", disk);
    }
  },
);
