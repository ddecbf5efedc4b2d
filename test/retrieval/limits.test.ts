/** What callers of a retriever bring in the wrong form is refused by name before anything is computed; and how calls end. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import { float32Tensor } from "../../src/host-tensor.js";
import { Blip2Retriever, type RetrieverForwardInputs } from "../../src/index.js";
import { readGoldenCase } from "../golden-case.js";
import { temporaryFolder } from "../generation/tiny-model.js";
import { pattern } from "../images/pattern.js";
import { writeRetrievalModel, type Changes, type RetrievalGolden } from "./retrieval-model.js";

const golden = await readGoldenCase<RetrievalGolden>("retrieval", "retrieval-4");
const { num_query_tokens: queries, image_token_index: token, vision_config: vision } = golden.config;
const image = { ...pattern(31, 20), channels: 3 as const };

let root: string;
let folders = 0;
let retriever: Blip2Retriever;
const load = async (changes: Changes = {}, options: object = {}) =>
  Blip2Retriever.load(await writeRetrievalModel(join(root, `${folders++}`), golden, changes), {
    threads: 1,
    ...options,
  });
beforeAll(async () => {
  root = await temporaryFolder();
  retriever = await load();
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
  it("are refused by their characters before they are cut into tokens, on every way in", async () => {
    const text = "w5 ".repeat(50_000);
    for (const work of [
      retriever.embedText(text),
      retriever.embedTexts(["w2", text]),
      retriever.score(image, text),
      retriever.scoreTexts(image, [text]),
      retriever.scorePairs([{ image, text }]),
      retriever.rankTexts(image, [text]),
      retriever.matchingAttention(image, text),
    ]) {
      const message = await refusal(work);
      expect(message).toMatch(/^\w+: a text has 150000 characters, at most 4096 are taken/);
      expect(message.length).toBeLessThan(200);
    }
  });

  it("that maxTextLength cuts are looked at only so far as is needed, and come to the same", async () => {
    await using cut = await load({}, { maxTextLength: 3 });
    const short = await cut.embedText("w5 w6 w7");
    expect(await cut.embedText(`w5 w6 w7 ${"w8 ".repeat(100_000)}`)).toEqual(short);
    // Words that are too long are one token each; white space is none.
    const unknown = await cut.embedText("w3 w3 w7");
    const long = "x".repeat(3000);
    expect(await cut.embedText(`${long} ${long}${" ".repeat(9000)}w7 w8 w9`)).toEqual(unknown);
  });

  it.each<[string, (r: Blip2Retriever) => Promise<unknown>, RegExp]>([
    ["a number for a text", (r) => r.score(image, 5 as never), /^score: text is 5: a string is required/],
    ["no text", (r) => r.embedText(undefined as never), /^embedText: text is .*: a string is required/],
    ["a string for texts", (r) => r.rankTexts(image, "w5" as never), /^rankTexts: texts is "w5": an array/],
    ["a string for texts", (r) => r.embedTexts("w5" as never), /^embedTexts: texts is "w5": an array/],
    ["a text that is none", (r) => r.scoreTexts(image, ["w5", null as never]), /^scoreTexts: text is null/],
    ["pairs that are none", (r) => r.scorePairs([null as never]), /^scorePairs: text is/],
    ["pairs that are no list", (r) => r.scorePairs({} as never), /^scorePairs: pairs is .*: an array/],
    ["pictures that are no list", (r) => r.embedImages("x.png" as never), /^embedImages: images is "x.png"/],
    ["pictures that are no list", (r) => r.encodeImages(7 as never), /^encodeImages: images is 7/],
  ])("refuses %s", async (_, call, message) => {
    expect(await refusal(call(retriever))).toMatch(message);
  });
});

describe("forward", () => {
  const side = vision.image_size;
  const pixelValues = { data: new Float32Array(3 * side * side).fill(0.5), dims: [1, 3, side, side] };
  const lead = Array<number>(queries).fill(token!);
  const tensor = (data: readonly number[]) => ({ data, dims: [1, data.length] });
  const usual = { pixelValues, inputIds: tensor([...lead, 2, 5]) };
  const mask = (...text: number[]) => tensor([...lead.map(() => 1), ...text]);

  it.each<[string, Partial<RetrieverForwardInputs>, RegExp]>([
    ["a negative id", { inputIds: tensor([...lead, 2, -5]) }, /inputIds holds -5; ids from 0 to 32/],
    ["an id beyond the vocabulary", { inputIds: tensor([...lead, 40]) }, /inputIds holds 40/],
    [
      "too long a text",
      { inputIds: tensor([...lead, ...Array<number>(15).fill(5)]) },
      /texts of 15 tokens, .* 14 positions/,
    ],
    ["no text", { inputIds: tensor(lead) }, /inputIds hold no text/],
    ["no rows", { inputIds: { data: [], dims: [0, queries + 2] } }, /inputIds hold no text/],
    ["a flat list", { inputIds: { data: [...lead, 5], dims: [queries + 1] } }, /inputIds must have dims/],
    ["a mask of other numbers", { attentionMask: mask(1, 3) }, /attentionMask holds 3; 0 and 1/],
    ["a mask of another shape", { attentionMask: tensor([1, 1]) }, /attentionMask must have dims/],
    [
      "a mask that hides the text",
      { attentionMask: mask(0, 0) },
      /row 0 of the text's part of attentionMask is 0/,
    ],
    [
      "pixels that are not numbers",
      { pixelValues: { ...pixelValues, data: pixelValues.data.map(() => NaN) } },
      /pixelValues holds NaN at place 0/,
    ],
    ["no picture", { pixelValues: { data: [], dims: [0, 3, side, side] } }, /no picture/],
    [
      "pictures of another size",
      { pixelValues: { data: new Float32Array(12), dims: [1, 3, 2, 2] } },
      /pixelValues must have dims/,
    ],
  ])("names %s", async (_, more, message) => {
    for (const useImageTextMatchingHead of [false, true])
      expect(await refusal(retriever.forward({ ...usual, ...more, useImageTextMatchingHead }))).toMatch(
        // For matching, rows that are not there are rows that are missing.
        _ === "no rows" && useImageTextMatchingHead ? /inputIds must have dims \[1, / : message,
      );
  });
});

it("weights that are not numbers are the checkpoint's fault, and named so", async () => {
  const broken = (name: RegExp) =>
    load({
      weights: (tensors) => {
        for (const [key, { dims }] of tensors) {
          const size = dims.reduce((product, count) => product * count, 1);
          if (name.test(key)) tensors.set(key, float32Tensor(new Float32Array(size).fill(NaN), dims));
        }
      },
    });
  const message = /are not numbers: its weights hold values that are not finite/;
  await using text = await broken(/^text_projection\.weight/);
  expect(await refusal(text.rankTexts(image, ["w5"]))).toMatch(message);
  expect(await refusal(text.embedText("w5"))).toMatch(message);
  await using vision = await broken(/^vision_projection\.weight/);
  expect(await refusal(vision.embedImage(image))).toMatch(message);
  await using head = await broken(/^itm_head\.weight/);
  expect(await refusal(head.score(image, "w5"))).toMatch(message);
  expect(await refusal(head.matchingAttention(image, "w5"))).toMatch(message);
});

it("closing lets calls under way finish, and refuses later ones as a caller's mistake", async () => {
  const closing = await load();
  const under = [closing.score(image, "w5 w6"), closing.rankTexts(image, ["w5", "w6"])] as const;
  const late = closing.close();
  for (const work of [closing.score(image, "w5"), closing.embedText("w5"), closing.embedImage(image)])
    expect(await refusal(work)).toMatch(/this model has been closed; load it again/);
  expect(await under[1]).toHaveLength(2);
  expect((await under[0]).itmProbability).toBeGreaterThan(0);
  await late;
  await closing.close();
});
