/** Stage 2 with a T5: it learns, goes on where it was stopped, writes what Python reads, and refuses what does not fit. */
import { cp, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { openSafetensors } from "../../src/checkpoints/safetensors.js";
import { sliceOf } from "../../src/data/dataset.js";
import { openData } from "../../src/data/open-data.js";
import { Random } from "../../src/random.js";
import type { Device, HostTensors } from "../../src/engine/index.js";
import { UserError } from "../../src/errors.js";
import { Blip2 } from "../../src/index.js";
import { loadTokenizer, type TextTokenizer } from "../../src/text/tokenizer.js";
import { openFrozenLanguageModel } from "../../src/loading/frozen-language-model.js";
import { openFrozenVision } from "../../src/loading/frozen-vision.js";
import { frozenEncoder } from "../../src/training/frozen-encoder.js";
import { openFeatures } from "../../src/training/image-features.js";
import { readLog } from "../../src/training/run-log.js";
import { stage2ConfigSchema } from "../../src/recipes/stage-2/config.js";
import { stage2Task } from "../../src/recipes/stage-2/task.js";
import { ignoreIndex } from "../../src/objectives/cross-entropy.js";
import { PrefixWriter, splitPoint } from "../../src/recipes/stage-2/encoder-decoder-text.js";
import { expectClose } from "../golden-case.js";
import { testDevice } from "../nn/evaluate.js";
import { endId, padId, writeTinyT5 } from "./tiny-t5.js";
import { makeTinyWorld, type Overrides, type TinyWorld } from "./tiny-world.js";

let world: TinyWorld;
let folder: (name: string) => string;
let texts: string[];
beforeAll(async () => {
  world = await makeTinyWorld();
  folder = (name) => join(world.root, name);
  const pictures = await openData(world.data, "train").captions();
  texts = (await sliceOf(pictures, 0, pictures.length)).flatMap(({ captions }) => captions);
  await writeTinyT5(folder("t5"), texts);
  for (const stage of ["vision", "stage1", "language-model"] as const)
    await world.train(stage, stage, { steps: 2 });
}, 120_000);
afterAll(() => world.remove());

const t5 = (overrides: Overrides = {}): Overrides => ({ languageModel: folder("t5"), ...overrides });
const keys = (overrides: Overrides = {}): Overrides =>
  t5({ steps: 12, evaluateEvery: 6, statements: { share: 0.25 }, ...overrides });
const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b) / values.length;

describe.sequential("a run", () => {
  it("learns, and measures whole captions", { timeout: 120_000 }, async () => {
    const { step, last } = await world.train("stage2", "run", keys());
    expect(step).toBe(12);
    const lines = await readLog(folder("run"));
    const losses = lines.flatMap((line) => ("learningRate" in line ? [Number(line["loss"])] : []));
    expect(mean(losses.slice(-3))).toBeLessThan(mean(losses.slice(0, 3)));
    const measured = lines.flatMap((line) =>
      "validation loss" in line ? [Number(line["validation loss"])] : [],
    );
    expect(measured).toHaveLength(2);
    expect(measured[1]).toBeLessThan(measured[0]!);
    expect(last["validation loss"]).toBe(measured[1]);
  });

  it("resumed equals unbroken, to the bit, splits and all", { timeout: 120_000 }, async () => {
    await world.trainUntil(5, "stage2", "broken", keys());
    await world.train("stage2", "broken", keys(), { resume: true });
    const [broken, whole] = await Promise.all(
      ["broken", "run"].map((run) => readFile(join(folder(run), "checkpoint.safetensors"))),
    );
    expect(broken!.equals(whole!)).toBe(true);
  });

  it("trains the bridge alone", async () => {
    const held = await openSafetensors(join(folder("run"), "checkpoint.safetensors"));
    expect([...held.tensors.keys()].filter((name) => name.includes("language_model."))).toEqual([]);
    const [model, languageModel] = await Promise.all(
      ["run/model", "t5"].map(async (name) => (await readModelFolder(folder(name))).weights.readAll()),
    );
    for (const [name, value] of languageModel!)
      expect(model!.get(`language_model.${name}`), name).toEqual(value);
  });

  it("writes a folder that tells of a T5, and that captions", { timeout: 120_000 }, async () => {
    const { config, generationConfig } = await readModelFolder(folder("run/model"));
    const tokenizer = await loadTokenizer(folder("t5"));
    expect(config).toMatchObject({
      architectures: ["Blip2ForConditionalGeneration"],
      use_decoder_only_language_model: false,
      image_token_index: tokenizer.idOf("<image>"),
      text_config: { model_type: "t5", bos_token_id: endId, decoder_start_token_id: padId },
    });
    expect(generationConfig).toEqual({
      bos_token_id: endId,
      eos_token_id: endId,
      pad_token_id: padId,
      decoder_start_token_id: padId,
      max_new_tokens: 32,
    });
    expect(await readdir(folder("run/model"))).toContain("tokenizer.json");
    await using model = await Blip2.load(folder("run/model"), { threads: 1 });
    const image = join(world.data, "images", "test", "000000.png");
    const [none, empty] = await Promise.all(
      [undefined, ""].map((prompt) => model.generate({ image, prompt, maxNewTokens: 6, minNewTokens: 3 })),
    );
    expect(none!.tokenIds.length).toBeGreaterThanOrEqual(3);
    // What stands for no prompt is what a caption without a prefix was trained behind.
    expect(none).toEqual(empty);
  });

  it("goes on from the weights of an earlier run", { timeout: 120_000 }, async () => {
    const { weights } = await world.train(
      "stage2",
      "second",
      keys({ steps: 1, start: folder("run"), learningRate: { peak: 1e-12 } }),
    );
    const checkpoint = await openSafetensors(join(folder("run"), "checkpoint.safetensors"));
    const name = "language_projection.weight";
    const before = (await checkpoint.readAll([`weight ${name}`])).get(`weight ${name}`);
    expectClose(name, weights.get(name), before, { within: 1e-6 });
  });
});

describe("the task", () => {
  const spread = (data: ArrayLike<unknown>): number =>
    Math.sqrt(mean(Array.from(data, (value) => Number(value) ** 2)));
  let device: Device;
  beforeAll(() => {
    device = testDevice();
  });
  afterAll(() => device.close());

  /** Of a bridge without dropout. */
  const taskOf = async (overrides: Overrides) => {
    const stage1 = await readModelFolder(folder("stage1/model"));
    const qformer = {
      ...(stage1.config["qformer_config"] as object),
      hidden_dropout_prob: 0,
      attention_probs_dropout_prob: 0,
    };
    const config = stage2ConfigSchema.parse(
      world.config("stage2", keys({ batchSize: 16, statements: {}, ...overrides })),
    );
    const pictures = await openData(world.data, "train").captions();
    const vision = openFrozenVision(stage1);
    const stores = join(world.data, "features");
    const train = await openFeatures(frozenEncoder(vision, device), pictures, {
      folder: stores,
      brokenPictures: 0,
    });
    const task = await stage2Task({
      device,
      config,
      stage1: { ...stage1, config: { ...stage1.config, qformer_config: qformer } },
      vision,
      languageModel: await openFrozenLanguageModel(await readModelFolder(config.languageModel)),
      tokenizer: await loadTokenizer(config.languageModel),
      train,
      validation: train,
    });
    const batches = [await task.batch(0, 0), await task.batch(1, 0), await task.batch(0, 0)] as const;
    await train.close();
    return { batches, spread: spread(task.start.get("language_projection.weight")!.data) };
  };
  /** Real tokens in the encoder, by row. */
  const prefixLengths = ({ prefix_mask: mask }: HostTensors): number[] => {
    const [count, length] = mask!.dims as [number, number];
    const ones = Array.from(mask!.data, Number);
    return Array.from({ length: count }, (_, r) =>
      ones.slice(r * length, (r + 1) * length).reduce((a, b) => a + b),
    );
  };

  it("draws captions and cuts as a function of seed and step, and starts at the words' spread", async () => {
    const { batches, spread: matched } = await taskOf({});
    const [first, second, again] = batches;
    expect(again).toEqual(first);
    expect(second["labels"]).not.toEqual(first["labels"]);
    // Some whole, some cut.
    const lengths = [...prefixLengths(first), ...prefixLengths(second)];
    expect(Math.min(...lengths)).toBe(1);
    expect(Math.max(...lengths)).toBeGreaterThan(1);
    // Nothing drops out.
    expect(first["seed"]).toBeUndefined();
    // Words start at a spread of 1; 16 query columns are added up.
    expect(matched).toBeGreaterThan(0.2);
    expect(matched).toBeLessThan(0.3);
    const other = await taskOf({ seed: 4, splitShare: 0, softPrompt: { matchWordScale: false } });
    expect(other.batches[0]["labels"]).not.toEqual(first["labels"]);
    expect(new Set(prefixLengths(other.batches[0]))).toEqual(new Set([1]));
    expect(other.spread).toBeLessThan(0.2);
  });

  it("starts as many times larger as softPrompt.start says, which counts in words", async () => {
    const [one, twelve] = [await taskOf({}), await taskOf({ softPrompt: { start: 12 } })];
    expect(twelve.spread / one.spread).toBeCloseTo(12, 4);
    await expect(taskOf({ softPrompt: { start: 12, matchWordScale: false } })).rejects.toThrow(
      /matchWordScale: false/,
    );
    await expect(taskOf({ softPrompt: { start: 12 }, start: "elsewhere" })).rejects.toThrow(
      /cannot stand beside start/,
    );
  });

  it("cuts every caption if told, and drops out as the T5's config says", async () => {
    await writeTinyT5(folder("t5-dropout"), texts, { dropout_rate: 0.1 });
    const { batches } = await taskOf({ languageModel: folder("t5-dropout"), splitShare: 1 });
    expect(Math.min(...prefixLengths(batches[0]))).toBeGreaterThan(1);
    expect(batches[0]["seed"]).toBeDefined();
  });
});

describe("rows", () => {
  let tokenizer: TextTokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(folder("t5"));
  });
  const caption = "a b c d e f g";
  const row = (overrides: object) =>
    new PrefixWriter(tokenizer, endId, {
      prompt: "",
      maxTextLength: 40,
      splitShare: 1,
      statements: {},
      ...overrides,
    });
  const text = (ids: readonly number[]): string => tokenizer.decode(ids).trim();

  it("cut a caption between words, from the first to the middle, each place as often", () => {
    const found = new Map<string, number>();
    for (let i = 0; i < 3000; i++) {
      const { prefix, labels } = row({}).caption(caption, new Random("row", i));
      expect([prefix.at(-1), labels.at(-1)]).toEqual([endId, endId]);
      expect(`${text(prefix)} ${text(labels)}`).toBe(caption);
      found.set(text(prefix), (found.get(text(prefix)) ?? 0) + 1);
    }
    expect([...found.keys()].sort()).toEqual(["a", "a b", "a b c"]);
    for (const count of found.values()) expect(Math.abs(count - 1000)).toBeLessThan(100);
    expect([1, 2, 3, 4].map((words) => splitPoint(words, new Random(words)))).toEqual([
      0,
      1,
      1,
      expect.any(Number),
    ]);
  });

  it("put the prompt before the prefix, or alone before a whole caption", () => {
    const split = row({ prompt: "a photo of" }).caption("red star", new Random(1));
    expect([split.prefix, split.labels].map(text)).toEqual(["a photo of red", "star"]);
    const whole = row({ prompt: "a photo of", splitShare: 0 }).caption(caption, new Random(1));
    expect([whole.prefix, whole.labels].map(text)).toEqual(["a photo of", caption]);
    const bare = row({}).caption(caption);
    expect(bare.prefix).toEqual([endId]);
    expect(text(bare.labels)).toBe(caption);
    // One word cannot be cut.
    expect(row({}).caption("star", new Random(1)).prefix).toEqual([endId]);
  });

  it("split as many as they are told", () => {
    const share = (splitShare: number | undefined): number =>
      mean(
        Array.from({ length: 2000 }, (_, i) =>
          row({ splitShare }).caption(caption, new Random("share", i)).prefix.length > 1 ? 1 : 0,
        ),
      );
    expect(share(1)).toBe(1);
    expect(share(0)).toBe(0);
    expect(share(0.25)).toBeCloseTo(0.25, 1);
    expect(share(undefined)).toBeCloseTo(0.5, 1);
  });

  it("ask what statements say: one as a prefix, several with sentinels, as many as fit", () => {
    const statements = ["the color of the star is red", "there are two fish", "the sky is blue"];
    const [first, second] = ["<extra_id_0>", "<extra_id_1>"].map((token) => tokenizer.idOf(token));
    const alone = row({}).statements(statements.slice(0, 1));
    expect([alone.prefix, alone.labels].map(text)).toEqual(["the color of the star is", "red"]);
    const { prefix, labels } = row({}).statements(statements.slice(0, 2));
    const place = prefix.indexOf(first!);
    expect(text(prefix.slice(0, place))).toBe("the color of the star is");
    expect(text(prefix.slice(place + 1, -2))).toBe("there are");
    expect(prefix.slice(-2)).toEqual([second, endId]);
    expect([labels[0], text(labels.slice(1, labels.indexOf(second!)))]).toEqual([first, "red"]);
    expect(text(labels.slice(labels.indexOf(second!) + 1, -1))).toBe("two fish");
    expect(labels.at(-1)).toBe(endId);
    const cramped = row({ maxTextLength: prefix.length }).statements(statements);
    expect(cramped).toEqual({ prefix, labels });
  });

  it("ask what statements say in the decoder alone, one behind the other, as many as fit", () => {
    const statements = ["the color of the star is red", "there are two fish"];
    const spoken = (ids: readonly number[]) => tokenizer.decode([...ids], { skipSpecialTokens: false });
    const { prefix, labels, said } = row({ statements: { form: "dialogue" } }).statements(statements);
    expect(prefix).toEqual([endId]);
    const whole = spoken(said!).split("</s>");
    expect(whole.map((turn) => turn.trim())).toEqual([...statements, ""]);
    const learnt = labels.filter((label) => label !== ignoreIndex);
    const answers = spoken(learnt).split("</s>");
    expect(answers.map((answer) => answer.trim())).toEqual(["red", "two fish", ""]);
    expect(labels.every((label, i) => label === ignoreIndex || label === said![i])).toBe(true);
    const cramped = row({ statements: { form: "dialogue" }, maxTextLength: said!.length - 1 }).statements(
      statements,
    );
    expect(cramped.said).toEqual(said!.slice(0, said!.indexOf(endId) + 1));
    // Where none fits, the first is a prefix, cut as other texts are.
    const tight = row({ statements: { form: "dialogue" }, maxTextLength: 4 }).statements(statements);
    expect(tight.prefix).toHaveLength(4);
    expect("the color of the star is".startsWith(text(tight.prefix.slice(0, -1)))).toBe(true);
    expect([text(tight.labels), tight.said]).toEqual(["red", undefined]);
  });

  it("lose the end of a text that is too long, not its end token", () => {
    const { labels } = row({ maxTextLength: 4 }).caption(caption);
    expect(labels).toHaveLength(4);
    expect(labels.at(-1)).toBe(endId);
    expect(text(labels.slice(0, -1))).toBe("a b c");
  });
});

describe("refuses", () => {
  const refusal = async (overrides: Overrides): Promise<string> => {
    const failed = await world.train("stage2", "refused", overrides).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(UserError);
    return (failed as Error).message.replaceAll(world.root, "ROOT");
  };
  const changedT5 = async (
    name: string,
    change: (json: Record<string, unknown>) => void,
    file = "config.json",
  ) => {
    await cp(folder("t5"), folder(name), { recursive: true });
    const path = join(folder(name), file);
    const json = JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
    change(json);
    await writeFile(path, JSON.stringify(json));
    return { languageModel: folder(name) };
  };

  it("keys that are for the other kind of language model", async () => {
    expect(await refusal({ splitShare: 0.5 })).toMatch(
      /splitShare is for an encoder-decoder, ROOT\/language-model\/model is decoder-only/,
    );
    expect(await refusal({ statements: { form: "dialogue" } })).toMatch(
      /statements\.form is for an encoder-decoder, ROOT\/language-model\/model is decoder-only/,
    );
    expect(await refusal(t5({ learnStartToken: true }))).toMatch(
      /learnStartToken is for a decoder-only language model, ROOT\/t5 is an encoder-decoder/,
    );
    expect(stage2ConfigSchema.safeParse(world.config("stage2", { splitShare: 2 })).success).toBe(false);
    expect(stage2ConfigSchema.safeParse(world.config("stage2", { splitShares: 1 })).success).toBe(false);
  });

  it("a prompt that leaves no room", async () => {
    const prompt = "a photo of";
    for (const overrides of [t5(), {}])
      expect(await refusal({ ...overrides, prompt, maxTextLength: 3 })).toMatch(
        /prompt has \d+ tokens, maxTextLength is 3/,
      );
  });

  it("a folder that is no language model", async () => {
    const message = await refusal({ languageModel: folder("vision/model") });
    expect(message).toMatch(
      /model_type "blip_2_vision_model" is no language model that can be used here \(opt, t5, or/,
    );
  });

  it("a config that no T5 has, and weights that are not its", async () => {
    const wrong = await changedT5("t5-config", (json) => (json["d_model"] = "wide"));
    expect(await refusal(wrong)).toMatch(/ROOT\/t5-config\/config.json: d_model is "wide": /);
    const other = await changedT5("t5-weights", (json) => (json["num_layers"] = 3));
    expect(await refusal(other)).toMatch(/missing:\n +language_model.encoder.block.2/);
  });

  it("a tokenizer that does not end texts as the model does, or has more tokens than the model rows", async () => {
    const end = await changedT5("t5-end", (json) => (json["eos_token_id"] = 5));
    expect(await refusal(end)).toMatch(
      /ROOT\/t5-end: a T5 reads and writes .* says is 5; its tokenizer makes \[1\]/,
    );
    const start = await changedT5("t5-start", (json) => (json["post_processor"] = null), "tokenizer.json");
    expect(await refusal(start)).toMatch(/ROOT\/t5-start: .* its tokenizer makes \[\] of an empty text/);
    await writeTinyT5(folder("t5-small"), texts, { vocab_size: 300 });
    expect(await refusal({ languageModel: folder("t5-small") })).toMatch(/its word table 300 rows/);
  });
});
