/** `blip2 evaluate` on what tiny trainings leave, and its agreement with what they measured themselves. */
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { sliceOf } from "../../src/data/dataset.js";
import { openData } from "../../src/data/open-data.js";
import {
  evaluateCaptions,
  type CaptionEvaluation,
  type Captioner,
  type Ranker,
} from "../../src/evaluation/caption.js";
import { Blip2Retriever } from "../../src/index.js";
import { FeatureStore } from "../../src/loading/feature-store.js";
import { blip2 } from "../cli/captured.js";
import { makeTinyWorld, trainBefore, type TinyWorld } from "../training/tiny-world.js";

let world: TinyWorld;
const last: Record<string, Readonly<Record<string, number | string>>> = {};
beforeAll(async () => {
  world = await makeTinyWorld();
  await trainBefore(world, "stage2");
  last["stage1"] = (await world.train("stage1", "stage1-measured", { steps: 2 })).last;
  last["language-model"] = (
    await world.train("language-model", "language-model-measured", { steps: 2 })
  ).last;
  await world.train("stage2", "stage2", { steps: 2 });
}, 300_000);
afterAll(() => world.remove());

/** Of a stand-in that is asked about pictures alone. */
const noText: Pick<Captioner, "generateWithoutPicture"> = {
  generateWithoutPicture: () => Promise.reject(new Error("a picture was given")),
};

/** The one line of `--json`. */
async function evaluate(task: string, words: readonly string[]): Promise<Record<string, number>> {
  const { code, stdout, stderr } = await blip2([
    "evaluate",
    task,
    "--data",
    world.data,
    "--threads",
    "1",
    "--json",
    ...words,
  ]);
  // A store of features says how large it will be before it is made.
  const said = stderr.replace(/^image features of \d+ pictures: .* MB in .*\n/, "");
  expect({ code, said }).toEqual({ code: 0, said: "" });
  expect(stdout.match(/\n/g)).toHaveLength(1);
  return JSON.parse(stdout) as Record<string, number>;
}

const folder = (run: string, part = "model"): string => join(world.root, run, part);
const shares = (measures: Record<string, number>, ...notShares: string[]): number[] =>
  Object.entries(measures).flatMap(([name, value]) => (notShares.includes(name) ? [] : [value]));

describe("caption", () => {
  it("measures a model on a split, and keeps what it said", { timeout: 120_000 }, async () => {
    const out = join(world.root, "captions.jsonl");
    const measures = await evaluate("caption", [
      "--model",
      folder("stage2"),
      "--split",
      "compositional",
      "--beams",
      "2",
      "--limit",
      "4",
      "--out",
      out,
    ]);
    expect(Object.keys(measures)).toEqual([
      "images",
      "kindF1",
      "colorF1",
      "colorGivenKind",
      "background",
      "countExact",
      "captionExact",
      "heldOutF1",
      "heldOutRecall",
    ]);
    expect(measures["images"]).toBe(4);
    for (const share of shares(measures, "images")) expect(share >= 0 && share <= 1).toBe(true);
    const lines = (await readFile(out, "utf8"))
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines).toHaveLength(4);
    expect(Object.keys(lines[0]!)).toEqual(["image", "caption", "logProbability", "references", "exact"]);
    expect(lines[0]!["image"]).toBe(join(world.data, "images", "compositional", "000000.png"));
  });

  it("gives one who says the references full marks, over batches", async () => {
    const known = new Map<string, string>();
    for (const split of ["test", "compositional"]) {
      const { images, annotations } = JSON.parse(
        await readFile(join(world.data, `captions_${split}.json`), "utf8"),
      ) as {
        images: { id: number; file_name: string }[];
        annotations: { image_id: number; caption: string }[];
      };
      for (const { id, file_name: file } of images)
        known.set(join(world.data, file), annotations.find(({ image_id }) => image_id === id)!.caption);
    }
    const batches: number[] = [];
    const parrot: Captioner = {
      ...noText,
      generateBatch: ({ images }) => {
        batches.push(images.length);
        return Promise.resolve(
          images.map((image) => ({ text: known.get(image as string)!, logProbability: 0 })),
        );
      },
    };
    const { quality, predictions } = await evaluateCaptions(parrot, {
      data: world.data,
      split: "compositional",
    });
    const { images, ...rest } = quality;
    expect(images).toBe(6);
    expect(Object.values(rest)).toEqual(Object.values(rest).map(() => 1));
    expect(predictions.every(({ exact }) => exact)).toBe(true);
    expect((await evaluateCaptions(parrot, { data: world.data, split: "test" })).quality).not.toHaveProperty(
      "heldOutF1",
    );
    expect(batches).toEqual([6, 8]);
  });
});

describe("captions without the picture", () => {
  const seen: unknown[] = [];
  const scribe: Captioner = {
    generateBatch: () => Promise.reject(new Error("no picture was to be given")),
    generateWithoutPicture: ({ prompts, descriptions, ...search }) => {
      seen.push({ prompts, described: descriptions !== undefined, ...search });
      // Says the description back, which names everything.
      const said = prompts.map((_, i) => ({ text: descriptions?.[i] ?? "a star", logProbability: 0 }));
      return Promise.resolve(said);
    },
  };
  const captions = (options: Partial<CaptionEvaluation>) =>
    evaluateCaptions(scribe, { data: world.data, split: "test", limit: 3, ...options });

  it("are written from the description of each, or from nothing", async () => {
    const { quality, predictions } = await captions({ given: "description", beams: 2 });
    expect(quality).toMatchObject({ images: 3, kindF1: 1, background: 1 });
    expect(new Set(predictions.map(({ caption }) => caption)).size).toBeGreaterThan(1);
    const guessed = await captions({ given: "nothing", prompt: "a picture of" });
    expect(guessed.predictions.map(({ caption }) => caption)).toEqual(["a star", "a star", "a star"]);
    expect(seen).toEqual([
      { prompts: ["", "", ""], described: true, numBeams: 2 },
      { prompts: Array.from({ length: 3 }, () => "a picture of"), described: false },
    ]);
  });

  it("are not ranked", async () => {
    const ranking = { ranker: { rankTexts: () => Promise.reject(new Error("asked")) }, candidates: 2 };
    await expect(captions({ given: "description", ranking })).rejects.toThrow(/cannot be ranked/);
  });

  it("come from a real model too", { timeout: 120_000 }, async () => {
    const words = ["--model", folder("stage2"), "--limit", "4", "--given"];
    const described = await evaluate("caption", [...words, "description"]);
    expect(described["images"]).toBe(4);
    expect(await evaluate("caption", [...words, "nothing"])).toHaveProperty("kindF1");
  });
});

describe("captions that are ranked", () => {
  it("counts the one that the ranker puts first", async () => {
    const asked: object[] = [];
    const captioner: Captioner = {
      ...noText,
      generateBatch: ({ images, ...rest }) => {
        asked.push(rest);
        const [first, second] = ["a star", "a cup"].map((text) => ({ text, logProbability: 0 }));
        return Promise.resolve(images.map(() => ({ ...first!, sequences: [first!, second!] })));
      },
    };
    const ranker: Ranker = { rankTexts: (_, texts) => Promise.resolve([{ index: texts.indexOf("a cup") }]) };
    const folder = { data: world.data, split: "test", limit: 3 };
    const said = async (options: Partial<CaptionEvaluation>) =>
      (await evaluateCaptions(captioner, { ...folder, ...options })).predictions.map(
        ({ caption }) => caption,
      );
    expect(await said({})).toEqual(["a star", "a star", "a star"]);
    expect(await said({ ranking: { ranker, candidates: 6 } })).toEqual(["a cup", "a cup", "a cup"]);
    await said({ beams: 7, ranking: { ranker, candidates: 6 } });
    await said({ prompt: "a picture of" });
    expect(asked).toEqual([
      {},
      { numBeams: 6, numReturnSequences: 6 },
      { numBeams: 7, numReturnSequences: 6 },
      { prompt: "a picture of" },
    ]);
  });
});

describe("vision", () => {
  it("puts model and towers together again", async () => {
    const measures = await evaluate("vision", [
      "--model",
      folder("vision"),
      "--towers",
      folder("vision", "towers"),
    ]);
    expect(Object.keys(measures)).toEqual([
      "images",
      "pool",
      "image to text recall@1",
      "text to image recall@1",
    ]);
    expect(measures).toMatchObject({ images: 8, pool: 8 });
    for (const share of shares(measures, "images", "pool")) expect(share >= 0 && share <= 1).toBe(true);
  });

  it("names what is missing when another folder is given as towers", async () => {
    const words = ["evaluate", "vision", "--data", world.data, "--model", folder("vision"), "--towers"];
    expect((await blip2([...words, folder("vision")])).stderr).toContain(
      "is none of the towers of a vision training",
    );
    expect(await blip2(words.slice(0, -1))).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("--towers is required") as string,
    });
  });
});

describe("language-model", () => {
  it("measures a folder as its training did, and keeps the answers", async () => {
    const out = join(world.root, "answers.jsonl");
    const { descriptions, questions, ...measures } = await evaluate("language-model", [
      "--model",
      folder("language-model-measured"),
      "--out",
      out,
    ]);
    expect(descriptions).toBe(4);
    const types = Object.keys(measures);
    expect(types).toEqual(Object.keys(last["language-model"]!).filter((name) => name.startsWith("answers")));
    const lines = (await readFile(out, "utf8"))
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines).toHaveLength(questions!);
    expect(measures["answers"]).toBeCloseTo(lines.filter(({ right }) => right).length / questions!);
    // The weights are stored in half precision: an answer may tip over.
    expect(Math.abs(measures["answers"]! - Number(last["language-model"]!["answers"]))).toBeLessThan(0.15);
  });

  it("finds the language model inside BLIP-2", async () => {
    const alone = await evaluate("language-model", ["--model", folder("language-model")]);
    expect(await evaluate("language-model", ["--model", folder("stage2")])).toEqual(alone);
  });

  it("refuses a model without one", async () => {
    const { code, stderr } = await blip2([
      "evaluate",
      "language-model",
      "--data",
      world.data,
      "--model",
      folder("vision"),
    ]);
    expect(code).toBe(1);
    expect(stderr).toContain(
      "is no language model that can be used here (opt, t5, or a BLIP-2 with one of them)",
    );
  });
});

describe("stage1", () => {
  it("measures a folder as its training did, from the features that training cached", async () => {
    const cached = await readdir(join(world.data, "features"));
    const { pairs, ...measures } = await evaluate("stage1", [
      "--model",
      folder("stage1-measured"),
      "--split",
      "validation",
    ]);
    expect(pairs).toBe(8);
    for (const [name, value] of Object.entries(measures)) {
      expect(Math.abs(value - Number(last["stage1"]![name])), name).toBeLessThan(0.15);
    }
    expect(Object.keys(measures)).toHaveLength(4);
    expect(await readdir(join(world.data, "features"))).toEqual(cached);
  });

  it("refuses a folder of stage 2", async () => {
    const { code, stderr } = await blip2([
      "evaluate",
      "stage1",
      "--data",
      world.data,
      "--model",
      folder("stage2"),
    ]);
    expect(code).toBe(1);
    expect(stderr).toContain("itm_head");
  });

  it.each(["1", "2"])("measures %s pairs", async (limit) => {
    expect(await evaluate("stage1", ["--model", folder("stage1"), "--limit", limit])).toMatchObject({
      pairs: Number(limit),
    });
  });
});

describe("retrieval", () => {
  /** Recalls by the slow way: every pair scored alone, every list sorted whole. */
  async function slowly(model: string, captions: number, rerank: number): Promise<Record<string, number>> {
    await using retriever = await Blip2Retriever.load(model, { threads: 1, maxTextLength: 35 });
    const set = await openData(world.data, "test").captions();
    const pictures = (await sliceOf(set, 0, set.length)).map(({ name, captions: all }) => ({
      file: name,
      captions: all,
    }));
    const texts = pictures.flatMap((picture) => picture.captions.slice(0, captions));
    const scores = new Map<string, { itc: number; itm: number }>();
    for (const { file } of pictures) {
      for (const text of texts) {
        const { itc, itmLogit } = await retriever.score(file, text);
        scores.set(`${file} ${text}`, { itc, itm: itc + itmLogit });
      }
    }
    const files = pictures.map(({ file }) => file);
    const right = (file: string, text: string): boolean =>
      pictures.some((picture) => picture.file === file && picture.captions.slice(0, captions).includes(text));
    const score = (file: string, text: string) => scores.get(`${file} ${text}`)!;
    const measures: Record<string, number> = {};
    for (const by of ["itc", "itm"] as const) {
      const sorted = (
        candidates: readonly string[],
        pair: (other: string) => { itc: number; itm: number },
      ) => {
        const list = [...candidates].sort((a, b) => pair(b).itc - pair(a).itc);
        const head = list.slice(0, rerank).sort((a, b) => pair(b)[by] - pair(a)[by]);
        return [...head, ...list.slice(rerank)];
      };
      for (const depth of [1, 5, 10]) {
        const found = (flags: readonly boolean[]): number => flags.filter(Boolean).length / flags.length;
        measures[`${by} image to text recall@${depth}`] = found(
          files.map((file) =>
            sorted(texts, (text) => score(file, text))
              .slice(0, depth)
              .some((text) => right(file, text)),
          ),
        );
        measures[`${by} text to image recall@${depth}`] = found(
          texts.map((text) =>
            sorted(files, (file) => score(file, text))
              .slice(0, depth)
              .some((file) => right(file, text)),
          ),
        );
      }
    }
    return measures;
  }

  it("agrees with scoring every pair alone and sorting all", { timeout: 120_000 }, async () => {
    const model = folder("stage1-measured");
    const words = ["--model", model, "--captions", "2", "--rerank", "3"];
    const { images, texts, rerank, ...measures } = await evaluate("retrieval", words);
    expect({ images, texts, rerank }).toEqual({ images: 8, texts: 16, rerank: 3 });
    expect(measures).toEqual(await slowly(model, 2, 3));
    // All are among the first ten of eight.
    expect(measures["itm text to image recall@10"]).toBe(1);
    expect(measures["itc text to image recall@1"]).toBeLessThan(1);
  });

  it("ranks by the similarity alone if not told more, over all captions", async () => {
    const measures = await evaluate("retrieval", ["--model", folder("stage1-measured"), "--limit", "4"]);
    expect(measures).toMatchObject({ images: 4, texts: 12 });
    expect(Object.keys(measures).filter((name) => name.startsWith("itm"))).toEqual([]);
  });

  it("keeps no features in memory: those for ranking again are read from a store, a few pictures at a time", async () => {
    const stores = join(world.root, "stores");
    const words = ["--model", folder("stage1-measured"), "--captions", "2", "--features", stores];
    const rows = vi.spyOn(FeatureStore.prototype, "rows");
    const encode = vi.spyOn(Blip2Retriever.prototype, "encodeImages");
    const alone = await evaluate("retrieval", words);
    expect(rows).not.toHaveBeenCalled();
    await expect(readdir(stores)).rejects.toThrow("ENOENT");
    const again = await evaluate("retrieval", [...words, "--rerank", "3"]);
    expect(encode).not.toHaveBeenCalled();
    const read = rows.mock.calls.map(([places]) => places.length);
    // Each picture once for its embedding, and for its pairs as often as these are cut apart.
    expect(Math.max(...read)).toBeLessThanOrEqual(32);
    expect(read[0]).toBe(8);
    expect(read.slice(1).reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(8 + 2 * read.length);
    expect(again).toMatchObject(alone);
    expect(await readdir(stores)).toHaveLength(1);
    rows.mockRestore();
    encode.mockRestore();
  });

  it("shares the store with stage 1 at full precision, and has one of its own at another", async () => {
    const stores = join(world.root, "shared-stores");
    const model = ["--model", folder("stage1-measured"), "--features", stores];
    await evaluate("stage1", model);
    const shared = await readdir(stores);
    expect(shared).toHaveLength(1);
    const full = await evaluate("retrieval", [...model, "--rerank", "2"]);
    expect(await readdir(stores)).toEqual(shared);
    const coarse = await evaluate("retrieval", [...model, "--rerank", "2", "--precision", "int8"]);
    expect(await readdir(stores)).toHaveLength(2);
    expect(Object.keys(coarse)).toEqual(Object.keys(full));
  });

  it("refuses a folder that cannot compare pictures with texts", async () => {
    const words = ["evaluate", "retrieval", "--data", world.data, "--model", folder("stage2")];
    const { code, stderr } = await blip2(words);
    expect(code).toBe(1);
    expect(stderr).toContain("use_qformer_text_input is false");
  });
});

it("refuses options that do not apply", async () => {
  const words = ["--model", "m", "--data", "d"];
  const { code, stderr } = await blip2(["evaluate", "stage1", ...words, "--beams", "3", "--towers", "t"]);
  expect(code).toBe(2);
  expect(stderr).toBe("blip2: evaluate: --beams, --towers does not apply to stage1\n");
});
