/** What callers ask too much of, or bring in the wrong form, is refused by name before anything is computed; and how calls end. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { UserError } from "../../src/errors.js";
import { Blip2Retriever, type RetrieverForwardInputs } from "../../src/index.js";
import { RetrievalRunner } from "../../src/retrieval/retrieval-runner.js";
import { readGoldenCase } from "../golden-case.js";
import { temporaryFolder } from "../generation/tiny-model.js";
import { testDevice } from "../nn/evaluate.js";
import { writeRetrievalModel, type RetrievalGolden } from "./retrieval-model.js";

let root: string;
let folder: string;
let retriever: Blip2Retriever;
const image = { data: new Uint8Array(16 * 16 * 3).fill(90), width: 16, height: 16, channels: 3 } as const;

beforeAll(async () => {
  root = await temporaryFolder();
  const golden = await readGoldenCase<RetrievalGolden>("retrieval", "retrieval-4");
  folder = await writeRetrievalModel(join(root, "model"), golden);
  retriever = await Blip2Retriever.load(folder, { threads: 1 });
});
afterAll(async () => {
  await retriever.close();
  await rm(root, { recursive: true });
});

const refusal = async (work: Promise<unknown>): Promise<string> => {
  const error: unknown = await work.then(
    () => undefined,
    (failed: unknown) => failed,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).message;
};

describe("texts", () => {
  it("of more characters than can be looked at are refused before they are cut into tokens, on every way in", async () => {
    const text = "x".repeat(100_001);
    for (const [call, name, work] of [
      ["score", "the text", retriever.score(image, text)],
      ["scoreTexts", "text 1", retriever.scoreTexts(image, ["w2", text])],
      [
        "scorePairs",
        "text 1",
        retriever.scorePairs([
          { image, text: "w2" },
          { image, text },
        ]),
      ],
      ["rankTexts", "text 1", retriever.rankTexts(image, ["w2", text])],
      ["embedText", "the text", retriever.embedText(text)],
      ["embedTexts", "text 2", retriever.embedTexts(["w2", "w2", text])],
      ["matchingAttention", "the text", retriever.matchingAttention(image, text)],
    ] as const)
      expect(await refusal(work)).toBe(
        `${call}: ${name} has 100001 characters, at most 100000 are taken; shorten it`,
      );
  });

  it("that are none are named", async () => {
    const none = undefined as unknown as string;
    expect(await refusal(retriever.embedText(none))).toBe(
      "embedText: the text is of type undefined; a string is required",
    );
  });
});

describe("forward", () => {
  const words = (count: number, id = 5): readonly number[] => Array<number>(count).fill(id);
  const inputs = (text: readonly number[], rows = 1): RetrieverForwardInputs => {
    const { image_token_index: token, num_query_tokens: queries, vision_config: vision } = retriever.config;
    const side = vision.image_size;
    const row = [...words(queries, token!), ...text];
    return {
      pixelValues: { data: new Float32Array(3 * side * side), dims: [1, 3, side, side] },
      inputIds: { data: Array.from({ length: rows }, () => row).flat(), dims: [rows, row.length] },
    };
  };
  const masked = (text: readonly number[]): RetrieverForwardInputs => {
    const given = inputs(words(text.length));
    const [, columns] = given.inputIds.dims as [number, number];
    const lead = words(columns - text.length, 1);
    return { ...given, attentionMask: { data: [...lead, ...text], dims: [1, columns] } };
  };
  const pixels = (fill: number): RetrieverForwardInputs => {
    const given = inputs([2]);
    const { data, dims } = given.pixelValues;
    return { ...given, pixelValues: { data: new Float32Array(data.length).fill(fill), dims } };
  };

  it("takes what is right", async () => {
    const { logitsPerImage } = await retriever.forward(inputs([2, 5], 3));
    expect(logitsPerImage.dims).toEqual([1, 3]);
    const plain = await retriever.forward(inputs([5, 5]));
    const { logitsPerText } = await retriever.forward({ ...masked([1, 1]), useImageTextMatchingHead: true });
    expect([plain.logitsPerText.dims, logitsPerText.dims]).toEqual([
      [1, 1],
      [2, 1],
    ]);
  });

  it.each<[string, () => RetrieverForwardInputs, RegExp]>([
    ["a negative id", () => inputs([2, -5]), /inputIds holds -5; ids from 0 to 32 are/],
    ["an id beyond the vocabulary", () => inputs([2, 34]), /inputIds holds 34; ids from 0/],
    ["no text", () => inputs([]), /inputIds hold no text/],
    ["no text at all", () => ({ ...inputs([2]), inputIds: { data: [], dims: [0, 9] } }), /hold no text/],
    ["a text without end", () => inputs(words(15)), /come to 15 text positions, at most 14/],
    ["a mask of other numbers", () => masked([1, 2]), /attentionMask holds 2; 0 and 1/],
    ["a mask of nothing", () => masked([0, 0]), /row 0 of attentionMask .* is 0 everywhere/],
    [
      "a mask of another length",
      () => ({ ...inputs([2]), attentionMask: { data: [1], dims: [1, 1] } }),
      /attentionMask must have dims \[1, 8\]/,
    ],
    ["pixels that are not numbers", () => pixels(NaN), /pixelValues holds NaN at place 0/],
    ["pixels that have no end", () => pixels(Infinity), /pixelValues holds Infinity at place 0/],
    [
      "no picture",
      () => {
        const given = inputs([2]);
        const [, ...dims] = given.pixelValues.dims;
        return { ...given, pixelValues: { data: [], dims: [0, ...dims] } };
      },
      /no picture/,
    ],
    [
      "texts that have no picture each",
      () => ({ ...inputs([2, 5], 2), useImageTextMatchingHead: true }),
      /inputIds must have dims \[1, 9\]/,
    ],
  ])("names %s, with no line of the runtime's", async (_, make, message) => {
    expect(await refusal(retriever.forward(make()))).toMatch(message);
  });
});

describe("the end of a call", () => {
  it("closing lets calls under way finish, and refuses later ones as a caller's mistake", async () => {
    const model = await Blip2Retriever.load(folder, { threads: 1 });
    const under = [
      model.scoreTexts(image, ["w2 w5", "w3"]),
      model.embedImages([image, image]),
      model.attention(image),
    ] as const;
    const late = model.close();
    expect(await refusal(model.score(image, "w2"))).toMatch(/this model has been closed; load it again/);
    expect((await under[0]).map(({ itc }) => Number.isFinite(itc))).toEqual([true, true]);
    expect(await under[1]).toHaveLength(2);
    await under[2];
    await late;
    await model.close();
    for (const work of [
      model.scoreTexts(image, ["w2"]),
      model.scorePairs([{ image, text: "w2" }]),
      model.rankTexts(image, ["w2"]),
      model.encodeImages([image]),
      model.embedImage(image),
      model.embedImages([image]),
      model.embedText("w2"),
      model.embedTexts(["w2"]),
      model.attention(image),
      model.matchingAttention(image, "w2"),
      model.forward({ pixelValues: { data: [], dims: [0] }, inputIds: { data: [], dims: [0] } }),
    ])
      expect(await refusal(work)).toMatch(/this model has been closed/);
  });

  it("a run that fails says why, also where its slots cannot be freed any more", async () => {
    const device = testDevice();
    const golden = await readGoldenCase<RetrievalGolden>("retrieval", "retrieval-4");
    const { readModelFolder } = await import("../../src/checkpoints/model-folder.js");
    const { retrievalConfig } = await import("../../src/models/blip-2-retrieval.js");
    const { weights } = await readModelFolder(folder);
    const runner = await RetrievalRunner.load(device, retrievalConfig(golden.config), weights, {
      precision: "fp32",
    });
    const drop = vi.spyOn(device, "drop").mockRejectedValue(new Error("the clean-up failed"));
    const signal = AbortSignal.abort();
    await expect(runner.look(golden.inputs["pixel_values"]!, { signal })).rejects.toThrow("stopped");
    // What was found is not lost either.
    const { hidden } = await runner.look(golden.inputs["pixel_values"]!);
    expect(hidden.dims[0]).toBe(golden.inputs["pixel_values"]!.dims[0]);
    expect(drop).toHaveBeenCalled();
    drop.mockRestore();
    await device.close();
  });
});
