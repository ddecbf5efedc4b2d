import { afterAll, describe, expect, it } from "vitest";
import { addDims, input, type Dim, type Tensor } from "../../../src/engine/index.js";
import { int64Tensor, type HostTensor } from "../../../src/host-tensor.js";
import { Opt, optConfigSchema, type OptConfig } from "../../../src/models/language/opt.js";
import { Parameters } from "../../../src/nn/parameters.js";
import { languageModelLoss } from "../../../src/objectives/stage-2.js";
import { expectClose, goldenNames, readGoldenCase } from "../../golden-case.js";
import { evaluate, rowsOf, sliceOf, testDevice } from "../../nn/evaluate.js";

const device = testDevice();
afterAll(() => device.close());

const build = (config: OptConfig) => {
  const parameters = new Parameters(() => false);
  return { parameters, model: new Opt(config, parameters.scope()) };
};

const ids = input("ids", "int64", ["B", "T"]);
const mask = input("mask", "int64", ["B", "T"]);
const labels = input("labels", "int64", ["B", "T"]);

/** Hidden states that a decoder's head reads, and its keys and values by layer, from ids. */
const uncached = (model: Opt) => {
  const { lastHiddenState, present } = model.forward({ inputsEmbeds: model.embed(ids), attentionMask: mask });
  const cache = present.flatMap(({ key, value }, i) => [
    [`key.${i}`, key] as const,
    [`value.${i}`, value] as const,
  ]);
  return { logits: model.logits(lastHiddenState), cache: Object.fromEntries(cache) };
};

/** A run of `count` new positions that reads `key.i` and `value.i` of P positions before. */
const cachedStep = (model: Opt, count: Dim = 1): Record<string, Tensor> => {
  const { num_attention_heads: heads, hidden_size: width, num_hidden_layers: depth } = model.config;
  const place = (name: string) => input(name, "float32", ["B", heads, "P", width / heads]);
  const past = Array.from({ length: depth }, (_, i) => ({
    key: place(`key.${i}`),
    value: place(`value.${i}`),
  }));
  const { lastHiddenState, present } = model.forward({
    inputsEmbeds: model.embed(input("ids", "int64", ["B", count])),
    attentionMask: input("mask", "int64", ["B", addDims("P", count)]),
    past,
  });
  const cache = present.flatMap(({ key, value }, i) => [
    [`next.key.${i}`, key] as const,
    [`next.value.${i}`, value] as const,
  ]);
  return { logits: model.logits(lastHiddenState), ...Object.fromEntries(cache) };
};

describe.each(goldenNames("models", "opt"))("%s", async (name) => {
  const golden = await readGoldenCase("models", name);
  const config = optConfigSchema.parse(golden.config);
  const { parameters, model } = build(config);
  const { logits, cache } = uncached(model);

  it("has the checkpoint's parameters", () => {
    const stored = [...golden.weights].map(([key, { dims }]) => [key, dims]);
    expect(Object.fromEntries(parameters.shapes)).toEqual(Object.fromEntries(stored));
  });

  it.each(["left", "right", "single"])("agrees with transformers on ids, %s", async (run) => {
    const feeds = {
      ids: golden.inputs[`${run}_ids`]!,
      mask: golden.inputs[`${run}_mask`]!,
      labels: golden.inputs[`${run}_labels`]!,
    };
    const loss = languageModelLoss(model, { ids, mask, labels });
    const found = await evaluate(device, { logits, loss }, feeds, golden.weights);
    const reference = golden.outputs[`${run}_logits`];
    expectClose(`${name} ${run} logits`, found["logits"], reference, { within: 1e-4, rows: feeds.mask });
    expect(Number(found["loss"]!.data[0])).toBeCloseTo(golden.scalars[`${run}_loss`]!, 5);
  });

  it("agrees with transformers on embeddings", async () => {
    const inputsEmbeds = input("embeds", "float32", ["B", "T", model.embeddingSize]);
    const { lastHiddenState } = model.forward({ inputsEmbeds, attentionMask: mask });
    const rows = golden.inputs["embeds_mask"]!;
    const feeds = { embeds: golden.inputs["embeds"]!, mask: rows };
    const found = await evaluate(device, { logits: model.logits(lastHiddenState) }, feeds, golden.weights);
    const reference = golden.outputs["embeds_logits"];
    expectClose(`${name} embeds`, found["logits"], reference, { within: 1e-4, rows });
  });

  it("gives a text the same logits alone, without its padding, as in its batch", async () => {
    const [batchIds, batchMask] = [golden.inputs["left_ids"]!, golden.inputs["left_mask"]!];
    const reference = golden.outputs["left_logits"]!;
    const total = batchIds.dims[1]!;
    for (let row = 0; row < batchIds.dims[0]!; row++) {
      const real = [...rowsOf(batchMask, row, row + 1).data].filter(Number).length;
      const alone = (tensor: HostTensor) => sliceOf(rowsOf(tensor, row, row + 1), 1, total - real, total);
      const feeds = { ids: alone(batchIds), mask: alone(batchMask) };
      const found = await evaluate(device, { logits }, feeds, golden.weights);
      expectClose(`${name} row ${row} alone`, found["logits"], alone(reference), { within: 1e-4 });
    }
  });

  it.each(["left", "right"])("decodes step by step from a cache as in one run, %s padding", async (run) => {
    const [allIds, allMask] = [golden.inputs[`${run}_ids`]!, golden.inputs[`${run}_mask`]!];
    const reference = golden.outputs[`${run}_logits`]!;
    const [batch, total] = allIds.dims as [number, number];
    const prompt = 2;
    const prefix = (tensor: HostTensor, length: number) => sliceOf(tensor, 1, 0, length);
    let state = await evaluate(
      device,
      cache,
      { ids: prefix(allIds, prompt), mask: prefix(allMask, prompt) },
      golden.weights,
    );
    const step = await device.compile(cachedStep(model), { weights: golden.weights });
    for (let at = prompt; at < total; at++) {
      const found = await step.run({
        ...state,
        ids: sliceOf(allIds, 1, at, at + 1),
        mask: prefix(allMask, at + 1),
      });
      const rows = sliceOf(allMask, 1, at, at + 1);
      const wanted = sliceOf(reference, 1, at, at + 1);
      expectClose(`${name} ${run} step ${at}`, found["logits"], wanted, { within: 1e-4, rows });
      state = Object.fromEntries(
        Object.entries(found).flatMap(([key, value]) =>
          key.startsWith("next.") ? [[key.slice("next.".length), value]] : [],
        ),
      );
      expect(state["key.0"]!.dims).toEqual([
        batch,
        config.num_attention_heads,
        at + 1,
        config.hidden_size / config.num_attention_heads,
      ]);
    }
    await step.release();
  });

  it("takes several new positions after a cache as in one run", async () => {
    const [allIds, allMask] = [golden.inputs["left_ids"]!, golden.inputs["left_mask"]!];
    const [split, total] = [3, allIds.dims[1]!];
    const from = (tensor: HostTensor) => sliceOf(tensor, 1, split, total);
    const feeds = { ids: sliceOf(allIds, 1, 0, split), mask: sliceOf(allMask, 1, 0, split) };
    const state = await evaluate(device, cache, feeds, golden.weights);
    const next = { ...state, ids: from(allIds), mask: allMask };
    const { logits: stepLogits } = cachedStep(model, "T");
    const found = await evaluate(device, { logits: stepLogits! }, next, golden.weights);
    const reference = from(golden.outputs["left_logits"]!);
    expectClose(`${name} rest`, found["logits"], reference, { within: 1e-4, rows: from(allMask) });
  });

  it("pays no heed to what stands at masked positions", async () => {
    const [original, rows] = [golden.inputs["left_ids"]!, golden.inputs["left_mask"]!];
    const changed = [...original.data].map((id, i) => (Number(rows.data[i]) === 0 ? 9 : Number(id)));
    const feeds = { ids: int64Tensor(changed, original.dims), mask: rows };
    const found = await evaluate(device, { logits }, feeds, golden.weights);
    const reference = golden.outputs["left_logits"];
    expectClose(`${name} other padding`, found["logits"], reference, { within: 1e-4, rows });
  });
});
