import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { InterruptedError, UserError } from "../../src/errors.js";
import { float32Tensor, type HostTensor } from "../../src/host-tensor.js";
import { Blip2Retriever } from "../../src/index.js";
import { loadImage } from "../../src/images/load-image.js";
import { preprocess, preprocessConfig } from "../../src/images/preprocess.js";
import { expectClose, goldenNames, readGoldenCase } from "../golden-case.js";
import { temporaryFolder } from "../generation/tiny-model.js";
import { pattern } from "../images/pattern.js";
import { writeRetrievalModel, type Changes, type RetrievalGolden } from "./retrieval-model.js";

let root: string;
let folders = 0;
beforeAll(async () => {
  root = await temporaryFolder();
});
afterAll(() => rm(root, { recursive: true }));

const read = (group: string, name: string) => readGoldenCase<RetrievalGolden>(group, name);
const write = async (group: string, name: string, changes?: Changes): Promise<string> =>
  writeRetrievalModel(join(root, `model-${folders++}`), await read(group, name), changes);

const cases = [
  ...goldenNames("models", "retrieval").map((name) => ["models", name] as const),
  ...goldenNames("retrieval", "retrieval").map((name) => ["retrieval", name] as const),
];

describe.each(cases)("%s/%s", (group, name) => {
  it("agrees with transformers on contrast and on matching", async () => {
    const { inputs, outputs } = await read(group, name);
    await using retriever = await Blip2Retriever.load(await write(group, name), { threads: 1 });
    const given = {
      pixelValues: inputs["pixel_values"]!,
      inputIds: inputs["input_ids"]!,
      attentionMask: inputs["attention_mask"]!,
    };
    const contrast = await retriever.forward(given);
    expectClose("itc", contrast.logitsPerImage, outputs["itc_logits_per_image"], { within: 1e-4 });
    expectClose("itc", contrast.logitsPerText, outputs["itc_logits_per_text"], { within: 1e-4 });
    expectClose("image", contrast.imageEmbeds, outputs["image_embeds"], { within: 1e-5 });
    expectClose("text", contrast.textEmbeds, outputs["text_embeds"], { within: 1e-5 });
    expectClose("vision", contrast.visionFeatures, outputs["vision_last_hidden_state"], { within: 1e-4 });
    const match = await retriever.forward({ ...given, useImageTextMatchingHead: true });
    expectClose("itm", match.logitsPerImage, outputs["itm_logits"], { within: 1e-4 });
    expect(match.imageEmbeds).toBeUndefined();
    // The reference ran each pair without padding, too.
    const alone = outputs["itm_logits_alone"];
    if (alone !== undefined) expectClose("itm alone", match.logitsPerImage, alone, { within: 1e-4 });
  });
});

it("finishes what is under way before it closes, and takes no more", async () => {
  const retriever = await Blip2Retriever.load(await write("retrieval", "retrieval-4"), { threads: 1 });
  const image = { ...pattern(20, 20), channels: 3 as const };
  const text = "w2 w9";
  // More than go in one batch, so that each call asks the worker more than once.
  const images = Array.from({ length: 20 }, () => image);
  const under = [
    retriever.encodeImages(images),
    retriever.scorePairs(images.map(() => ({ image, text }))),
    retriever.rankTexts(image, [text, text]),
    retriever.matchingAttention(image, text),
  ];
  const closed = retriever.close();
  const refused = retriever.embedText(text);
  await expect(refused).rejects.toThrow(UserError);
  await expect(refused).rejects.toThrow("this model has been closed; load it again to use it");
  expect((await Promise.allSettled(under)).map(({ status }) => status)).toEqual(under.map(() => "fulfilled"));
  await closed;
  await retriever.close();
  await expect(retriever.encodeImages([])).rejects.toThrow("this model has been closed");
});

it("is near the exact numbers in 8 bits", async () => {
  const { inputs, outputs } = await read("models", "retrieval-1");
  const folder = await write("models", "retrieval-1");
  await using retriever = await Blip2Retriever.load(folder, { threads: 1, precision: "int8" });
  const { logitsPerImage } = await retriever.forward({
    pixelValues: inputs["pixel_values"]!,
    inputIds: inputs["input_ids"]!,
    attentionMask: inputs["attention_mask"]!,
  });
  expectClose("itc", logitsPerImage, outputs["itc_logits_per_image"], { within: 0.03 });
  expect(logitsPerImage).not.toEqual(outputs["itc_logits_per_image"]);
});

describe("scores and embeddings", async () => {
  const golden = await read("retrieval", "retrieval-4");
  const { config } = golden;
  const [first, second] = [pattern(31, 20), pattern(18, 40)].map((image) => ({
    ...image,
    channels: 3 as const,
  }));
  const texts = ["w2 w9", "w2 w4 w5 w6 w7 w8 w9 w10", "w2 w30 w11"];
  let retriever: Blip2Retriever;
  beforeAll(async () => {
    retriever = await Blip2Retriever.load(await write("retrieval", "retrieval-4"), { threads: 1 });
  });
  afterAll(() => retriever.close());

  const idsOf = (text: string) => {
    const words = text.split(" ").map((word) => Number(word.slice(1)));
    const lead = Array<number>(config.num_query_tokens).fill(config.image_token_index!);
    return { data: [...lead, ...words], dims: [1, lead.length + words.length] };
  };
  const pixelsOf = async (image: typeof first) =>
    preprocess([await loadImage(image!)], preprocessConfig({ size: config.vision_config.image_size }));

  it("are those of one picture and one text without padding", async () => {
    const given = { pixelValues: await pixelsOf(first), inputIds: idsOf(texts[0]!) };
    const contrast = await retriever.forward(given);
    const match = await retriever.forward({ ...given, useImageTextMatchingHead: true });
    const [against, itmLogit] = [...match.logitsPerImage.data].map(Number) as [number, number];
    const found = await retriever.score(first!, texts[0]!);
    expect(found.itc).toBeCloseTo(Number(contrast.logitsPerImage.data[0]), 6);
    expect(found.itmLogit).toBeCloseTo(itmLogit, 5);
    const softmax = Math.exp(itmLogit) / (Math.exp(itmLogit) + Math.exp(against));
    expect(found.itmProbability).toBeCloseTo(softmax, 6);
    const embedding = await retriever.embedImage(first!);
    expectClose("image", float32Tensor(embedding, contrast.imageEmbeds!.dims), contrast.imageEmbeds, {
      within: 1e-6,
    });
  });

  it("do not depend on what they are computed with", async () => {
    const pairs = [first, second, first].flatMap((image) => texts.map((text) => ({ image: image!, text })));
    const together = await retriever.scorePairs(pairs);
    expect(together).toHaveLength(9);
    const [encoded] = await retriever.encodeImages([second!]);
    const reused = await retriever.scoreTexts(encoded!, texts);
    for (const [i, { image, text }] of pairs.entries()) {
      const alone = await retriever.score(image, text);
      for (const key of ["itc", "itmLogit", "itmProbability"] as const) {
        expect(together[i]![key]).toBeCloseTo(alone[key], 5);
        if (image === second) expect(reused[i % 3]![key]).toBeCloseTo(alone[key], 5);
      }
    }
    // Pictures and texts do matter.
    expect(new Set(together.slice(0, 6).map(({ itmLogit }) => itmLogit.toFixed(4))).size).toBe(6);
  });

  it("have rows of unit length, whose best cosine is itc", async () => {
    const width = config.image_text_hidden_size;
    const [images, rows] = [
      await retriever.embedImages([first!, second!]),
      await retriever.embedTexts(texts),
    ];
    expect(images.map(({ length }) => length)).toEqual(
      [1, 1].map((n) => n * config.num_query_tokens * width),
    );
    const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
    for (const [i, image] of images.entries()) {
      const queries = Array.from({ length: config.num_query_tokens }, (_, q) =>
        image.subarray(q * width, (q + 1) * width),
      );
      for (const row of [...queries, ...rows]) expect(dot(row, row)).toBeCloseTo(1, 5);
      const { itc } = await retriever.score([first!, second!][i]!, texts[1]!);
      expect(itc).toBeCloseTo(Math.max(...queries.map((query) => dot(query, rows[1]!))), 6);
    }
    expect(await retriever.embedText(texts[1]!)).toHaveLength(width);
    expect(await retriever.embedTexts([])).toEqual([]);
    expect(await retriever.scoreTexts(first!, [])).toEqual([]);
  });

  it("need texts that fit", async () => {
    const long = Array<string>(15).fill("w5").join(" ");
    await expect(retriever.embedText(long)).rejects.toThrow(/15 tokens, the model has 14 positions/);
    await expect(retriever.score(first!, "w33")).rejects.toThrow(/token id 33 is not in .* 33 rows/);
    const folder = await write("retrieval", "retrieval-4");
    await using cut = await Blip2Retriever.load(folder, { threads: 1, maxTextLength: 3 });
    expect(await cut.embedText(long)).toEqual(await cut.embedText("w5 w5 w5"));
    await expect(Blip2Retriever.load(folder, { maxTextLength: 15 })).rejects.toThrow(/at most 14/);
  });

  it("are refused by name", async () => {
    const call = (options: object) => retriever.score(first!, texts[0]!, options);
    await expect(call({ signals: 1 })).rejects.toThrow(/score: unknown option signals; did you mean signal/);
    await expect(call({ signal: AbortSignal.abort() })).rejects.toThrow(InterruptedError);
    await expect(retriever.score("/no/such/picture.png", texts[0]!)).rejects.toThrow(
      /this picture does not exist/,
    );
    await using other = await Blip2Retriever.load(await write("retrieval", "retrieval-4"), { threads: 1 });
    const [foreign] = await other.encodeImages([first!]);
    await expect(retriever.score(foreign!, texts[0]!)).rejects.toThrow(/encoded by another retriever/);
    const forward = (inputIds: { data: number[]; dims: number[] }) =>
      retriever.forward({ pixelValues: golden.inputs["pixel_values"]!, inputIds });
    await expect(forward({ data: [1, 2, 3], dims: [1, 3] })).rejects.toThrow(
      /must begin with 7 image tokens/,
    );
  });
});

describe("folders", () => {
  const load = async (changes: Changes, options: object = {}) =>
    Blip2Retriever.load(await write("retrieval", "retrieval-3", changes), { threads: 1, ...options });
  const one = (...dims: number[]): HostTensor =>
    float32Tensor(new Float32Array(dims.reduce((a, b) => a * b, 1)), dims);

  it("may hold what only training uses, buffers, and an unused projection", async () => {
    await using retriever = await load({
      weights: (weights) => {
        weights.set("temp", one());
        weights.set("cls.predictions.bias", one(29));
        weights.set("language_projection.weight", one(4, 20));
        weights.set("embeddings.position_ids", one(1, 14));
      },
    });
    expect(await retriever.embedText("w2 w5")).toHaveLength(9);
  });

  it("may hold the single-logit form of matching", async () => {
    const { weights } = await read("retrieval", "retrieval-3");
    const [weight, bias] = ["itm_head.weight", "itm_head.bias"].map((name) => weights.get(name)!.data) as [
      Float32Array,
      Float32Array,
    ];
    const image = { ...pattern(30, 30), channels: 3 as const };
    await using two = await load({});
    await using single = await load({
      weights: (tensors) => {
        tensors.set("itm_head.weight", float32Tensor(weight.slice(20), [1, 20]));
        tensors.set("itm_head.bias", float32Tensor(bias.slice(1), [1]));
      },
    });
    const [a, b] = [await two.score(image, "w2 w5"), await single.score(image, "w2 w5")];
    expect(b.itmLogit).toBeCloseTo(a.itmLogit, 5);
    expect(b.itmProbability).toBeCloseTo(1 / (1 + Math.exp(-a.itmLogit)), 5);
  });

  it("may hold query and value biases in the older form", async () => {
    const { weights, inputs, outputs } = await read("models", "retrieval-1");
    const name = "vision_model.encoder.layers.0.self_attn";
    const joined = weights.get(`${name}.qkv.bias`)!.data as Float32Array;
    const folder = await write("models", "retrieval-1", {
      weights: (tensors) => {
        tensors.delete(`${name}.qkv.bias`);
        tensors.set(`${name}.q_bias`, float32Tensor(joined.slice(0, 20), [20]));
        tensors.set(`${name}.v_bias`, float32Tensor(joined.slice(40), [20]));
      },
    });
    await using retriever = await Blip2Retriever.load(folder, { threads: 1 });
    const { visionFeatures } = await retriever.forward({
      pixelValues: inputs["pixel_values"]!,
      inputIds: inputs["input_ids"]!,
    });
    expectClose("vision", visionFeatures, outputs["vision_last_hidden_state"], { within: 1e-4 });
  });

  it.each<[string, Changes, object, RegExp]>([
    ["an unknown option", {}, { imgSize: 3 }, /load: unknown option imgSize; did you mean imageSize/],
    ["a precision", {}, { precision: "int3" }, /precision is "int3": one of fp32, int8, int4 is required/],
    ["a size below a patch", {}, { imageSize: 5 }, /imageSize is 5: at least one patch of 6/],
    ["a Q-Former without text", { config: { qformer_config: {} } }, {}, /use_qformer_text_input is false/],
    ["another model", { config: { model_type: "blip" } }, {}, /model_type is .*: "blip-2" is required/],
    [
      "an oblong size",
      { files: { "preprocessor_config.json": { size: { height: 30, width: 12 } } } },
      {},
      /a square/,
    ],
    [
      "strange tensors",
      {
        weights: (weights) => {
          weights.delete("itm_head.bias");
          weights.set("qformer.pooler.dense.weight", one(2, 2));
        },
      },
      {},
      /1 missing:\n {2}itm_head\.bias\n1 not expected:\n {2}qformer\.pooler\.dense\.weight/,
    ],
  ])("are refused for %s", async (_, changes, options, message) => {
    const error: unknown = await load(changes, options).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    expect((error as Error).message).toMatch(message);
  });
});

describe("the bundled model", () => {
  it("scores a sample picture", async () => {
    await using retriever = await Blip2Retriever.load("models/scenes-retrieval", { threads: 1 });
    const picture = await readFile("samples/test-1.png");
    const queries = await retriever.embedImage(picture);
    const { num_query_tokens: count, image_text_hidden_size: width } = retriever.config;
    expect(queries).toHaveLength(count * width);
    const [right, wrong] = await retriever.scoreTexts("samples/test-1.png", [
      "a picture with grass",
      "a picture with snow",
    ]);
    for (const score of [right!, wrong!]) {
      expect(Math.abs(score.itc)).toBeLessThanOrEqual(1.000001);
      expect(score.itmProbability).toBeGreaterThanOrEqual(0);
      expect(score.itmProbability).toBeLessThanOrEqual(1);
    }
    expect(right!.itmLogit).not.toBe(wrong!.itmLogit);
  });
});
