import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { InterruptedError } from "../../src/errors.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { attentionMaps, Blip2Retriever, matchingMaps } from "../../src/index.js";
import { retrievalConfig } from "../../src/models/blip-2-retrieval.js";
import { imageAttention } from "../../src/models/cross-attention.js";
import { RetrievalRunner } from "../../src/retrieval/retrieval-runner.js";
import { withoutImageTokens } from "../../src/raw-tensors.js";
import { difference, expectClose, goldenNames, readGoldenCase } from "../golden-case.js";
import { temporaryFolder } from "../generation/tiny-model.js";
import { pattern } from "../images/pattern.js";
import { sliceOf, testDevice } from "../nn/evaluate.js";
import { writeRetrievalModel, type RetrievalGolden } from "./retrieval-model.js";

const device = testDevice();
let root: string;
beforeAll(async () => {
  root = await temporaryFolder();
});
afterAll(async () => {
  await device.close();
  await rm(root, { recursive: true });
});

const cases = [
  ...goldenNames("models", "retrieval").map((name) => ["models", name] as const),
  ...goldenNames("retrieval", "retrieval").map((name) => ["retrieval", name] as const),
];

describe.each(cases)("attention of %s/%s", async (group, name) => {
  const golden = await readGoldenCase<RetrievalGolden>(group, name);
  const { outputs, gradients } = await readGoldenCase("attention", name);
  const config = retrievalConfig(golden.config);
  const { num_query_tokens: queries, image_token_index: imageToken } = golden.config;
  const lead = imageToken === null ? 0 : queries;
  const given = golden.inputs["input_ids"]!;
  const ids = imageToken === null ? given : withoutImageTokens(given, imageToken, queries);
  const mask = sliceOf(golden.inputs["attention_mask"]!, 1, lead, given.dims[1]!);
  let runner: RetrievalRunner;
  let features: HostTensor;
  beforeAll(async () => {
    const folder = await writeRetrievalModel(join(root, name), golden);
    const { weights } = await readModelFolder(folder);
    runner = await RetrievalRunner.load(device, config, weights, { precision: "fp32" });
    features = (await runner.look(golden.inputs["pixel_values"]!)).hidden;
  });

  it("agrees with transformers without a text", async () => {
    const count = features.dims[0]!;
    const nothing = int64Tensor(new BigInt64Array(count), [count, 1]);
    const { probabilities } = await runner.matchingAttention(features, nothing, nothing);
    expectClose("alone", probabilities, outputs["probabilities"], { within: 1e-5 });
  });

  it("agrees with transformers and autograd for a text", async () => {
    // The texts of the batch are padded here; they were run alone there.
    const found = await runner.matchingAttention(features, ids, mask);
    expectClose("joint", found.probabilities, outputs["matching_probabilities"], { within: 1e-5 });
    expectClose("logits", found.logits, outputs["itm_logits"], { within: 1e-4 });
    expect(found.gradients.dims).toEqual(gradients["matching_probabilities"]!.dims);
    expect(difference(found.gradients, gradients["matching_probabilities"]!).relative).toBeLessThan(1e-4);
    for (let b = 0; b < features.dims[0]!; b++) {
      const row = (tensor: HostTensor): HostTensor => sliceOf(tensor, 0, b, b + 1);
      const attention = {
        ...imageAttention(config, row(found.probabilities)),
        gradients: row(found.gradients).data as Float32Array,
        text: "",
        itmLogit: 0,
        itmProbability: 0,
      };
      const [, , queryCount, positions] = attention.dims;
      for (const [index, layer] of attention.layers.entries()) {
        const rows = matchingMaps(attention, { layer }).map(({ classValue, values }) => [
          classValue,
          ...values,
        ]);
        const weighted = sliceOf(row(outputs["weighted"]!), 1, index, index + 1);
        const ours = float32Tensor(rows.flat(), [1, 1, queryCount, positions]);
        expect(difference(ours, weighted).relative).toBeLessThan(1e-4);
      }
    }
  });
});

describe("Blip2Retriever", async () => {
  const golden = await readGoldenCase<RetrievalGolden>("retrieval", "retrieval-4");
  const image = { ...pattern(31, 20), channels: 3 } as const;
  const text = "w2 w9 w11";
  let folder: string;
  let retriever: Blip2Retriever;
  beforeAll(async () => {
    folder = await writeRetrievalModel(join(root, "model"), golden);
    retriever = await Blip2Retriever.load(folder, { threads: 1 });
  });
  afterAll(() => retriever.close());

  it("gives attention with the score that belongs to it", async () => {
    const found = await retriever.matchingAttention(image, text);
    expect(found.dims).toEqual([2, 2, 7, 17]);
    expect([found.layers, found.text, found.firstPatch]).toEqual([[0, 3], text, 1]);
    expect(found.grid).toEqual({ rows: 4, columns: 4, covered: 1 });
    const { itmLogit, itmProbability } = await retriever.score(image, text);
    expect(found.itmLogit).toBeCloseTo(itmLogit, 5);
    expect(found.itmProbability).toBeCloseTo(itmProbability, 6);
    const [encoded] = await retriever.encodeImages([image]);
    expect(await retriever.matchingAttention(encoded!, text)).toEqual(found);
  });

  it("looks elsewhere with another text, and without one", async () => {
    const alone = await retriever.attention(image);
    const [one, two] = [
      await retriever.matchingAttention(image, text),
      await retriever.matchingAttention(image, "w20"),
    ];
    expect(alone.dims).toEqual(one.dims);
    expect(attentionMaps(one)).not.toEqual(attentionMaps(two));
    expect(attentionMaps(one)).not.toEqual(attentionMaps(alone));
    expect(matchingMaps(one)).not.toEqual(matchingMaps(two));
  });

  it("differentiates the weights as published at any precision", async () => {
    await using coarse = await Blip2Retriever.load(folder, { threads: 1, precision: "int8" });
    const [exact, found] = [
      await retriever.matchingAttention(image, text),
      await coarse.matchingAttention(image, text),
    ];
    const as = (values: Float32Array): HostTensor => float32Tensor(values, exact.dims);
    // Only the image encoder is coarser.
    expect(difference(as(found.gradients), as(exact.gradients)).relative).toBeLessThan(0.1);
    expect(found.gradients).not.toEqual(exact.gradients);
  });

  it("takes the one logit of the single-logit form", async () => {
    const [weight, bias] = ["itm_head.weight", "itm_head.bias"].map(
      (name) => golden.weights.get(name)!.data as Float32Array,
    ) as [Float32Array, Float32Array];
    const single = await writeRetrievalModel(join(root, "single"), golden, {
      weights: (tensors) => {
        tensors.set("itm_head.weight", float32Tensor(weight.slice(16), [1, 16]));
        tensors.set("itm_head.bias", float32Tensor(bias.slice(1), [1]));
      },
    });
    await using other = await Blip2Retriever.load(single, { threads: 1 });
    const [a, b] = [
      await retriever.matchingAttention(image, text),
      await other.matchingAttention(image, text),
    ];
    expect(b.itmLogit).toBeCloseTo(a.itmLogit, 5);
    expectClose("gradients", float32Tensor(b.gradients, b.dims), float32Tensor(a.gradients, a.dims), {
      within: 1e-5,
    });
  });

  it("refuses by name", async () => {
    await expect(retriever.attention(image, { text } as object)).rejects.toThrow(
      /attention: unknown option text/,
    );
    await expect(retriever.matchingAttention(image, "w33")).rejects.toThrow(/token id 33/);
    const stopped = { signal: AbortSignal.abort() };
    await expect(retriever.matchingAttention(image, text, stopped)).rejects.toThrow(InterruptedError);
  });
});
