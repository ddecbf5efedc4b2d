import { afterAll, describe, expect, it } from "vitest";
import { gradients, input, ops } from "../../../src/engine/index.js";
import { int64Tensor, type HostTensor } from "../../../src/host-tensor.js";
import { T5, t5ConfigSchema, type T5Config } from "../../../src/models/language/t5.js";
import { Parameters } from "../../../src/nn/parameters.js";
import { Dropout } from "../../../src/nn/dropout.js";
import { labelLoss } from "../../../src/objectives/cross-entropy.js";
import { expectClose, goldenNames, readGoldenCase } from "../../golden-case.js";
import { evaluate, rowsOf, sliceOf, testDevice } from "../../nn/evaluate.js";

const device = testDevice();
afterAll(() => device.close());

const build = (config: T5Config, stored?: { has(name: string): boolean }, trainable = false) => {
  const parameters = new Parameters(() => trainable);
  return { parameters, model: new T5(config, parameters.scope(), stored) };
};

const ids = input("ids", "int64", ["B", "S"]);
const mask = input("mask", "int64", ["B", "S"]);
const decoderIds = input("decoder_ids", "int64", ["B", "T"]);
const decoderMask = input("decoder_mask", "int64", ["B", "T"]);
const labels = input("labels", "int64", ["B", "T"]);

/** Labels behind the start id 0; those that are ignored become padding, which is 0 too. */
function shifted({ data, dims }: HostTensor): HostTensor {
  const length = dims[1]!;
  const before = (i: number) => (i % length === 0 ? 0 : Math.max(0, Number(data[i - 1])));
  return int64Tensor(
    Array.from(data as BigInt64Array, (_, i) => before(i)),
    dims,
  );
}

const onesLike = ({ data, dims }: HostTensor) => int64Tensor(Array<number>(data.length).fill(1), dims);

/** The whole model from the encoder's embeddings on. */
const whole = (model: T5, embeds = model.embed(ids), dropout?: Dropout) => {
  const encoded = model.encode({ inputsEmbeds: embeds, attentionMask: mask, ...(dropout && { dropout }) });
  const { lastHiddenState } = model.decode({
    inputsEmbeds: model.embed(decoderIds),
    attentionMask: decoderMask,
    encoder: model.encoderKeyValues(encoded),
    encoderMask: mask,
    ...(dropout && { dropout }),
  });
  const logits = model.logits(lastHiddenState);
  return { embeds, encoded, logits, loss: labelLoss(logits, labels) };
};

describe.each(goldenNames("t5", "t5-"))("%s", async (name) => {
  const golden = await readGoldenCase("t5", name);
  const config = t5ConfigSchema.parse(golden.config);
  const { parameters, model } = build(config, golden.weights);
  const feeds = {
    ids: golden.inputs["input_ids"]!,
    mask: golden.inputs["attention_mask"]!,
    labels: golden.inputs["labels"]!,
    decoder_ids: shifted(golden.inputs["labels"]!),
    decoder_mask: onesLike(golden.inputs["labels"]!),
  };

  it("has the checkpoint's parameters", () => {
    const stored = [...golden.weights].map(([key, { dims }]) => [key, dims]);
    expect(Object.fromEntries(parameters.shapes)).toEqual(Object.fromEntries(stored));
  });

  it("agrees with transformers on encoder, logits and loss", async () => {
    const { encoded, logits, loss } = whole(model);
    const found = await evaluate(device, { encoded, logits, loss }, feeds, golden.weights);
    const rows = feeds.mask;
    const reference = golden.outputs["encoder_last_hidden_state"];
    expectClose(`${name} encoder`, found["encoded"], reference, { within: 1e-4, rows });
    expectClose(`${name} logits`, found["logits"], golden.outputs["logits"], { within: 1e-4 });
    expect(Number(found["loss"]!.data[0])).toBeCloseTo(golden.scalars["loss"]!, 5);
  });

  it("agrees with autograd on gradients: embeddings, the tables of positions and words, norms, matrices", async () => {
    const trainable = build(config, golden.weights, true);
    // As in the reference, the words that the encoder reads are not the table's.
    const { embeds, loss } = whole(trainable.model, ops.stopGradient(trainable.model.embed(ids)));
    const names = Object.keys(golden.gradients).filter((key) => key !== "inputs_embeds");
    expect(names).toHaveLength(7);
    const tensors = names.map(
      (key) => trainable.parameters.all.find((declared) => declared.name === key)!.tensor,
    );
    const [ofEmbeds, ...others] = gradients(loss, [embeds, ...tensors]);
    const outputs = Object.fromEntries(others.map((gradient, i) => [`gradient of ${names[i]!}`, gradient]));
    const found = await evaluate(device, { ...outputs, ofEmbeds: ofEmbeds! }, feeds, golden.weights);
    expectClose(`${name} embeddings`, found["ofEmbeds"], golden.gradients["inputs_embeds"], {
      within: 1e-4,
      rows: feeds.mask,
    });
    for (const key of names) {
      expectClose(`${name} ${key}`, found[`gradient of ${key}`], golden.gradients[key], { within: 1e-4 });
    }
  });

  it("gives a text the same encoding alone, without its padding, as in its batch", async () => {
    const { encoded } = whole(model);
    const reference = golden.outputs["encoder_last_hidden_state"]!;
    for (let row = 0; row < feeds.ids.dims[0]!; row++) {
      const real = [...rowsOf(feeds.mask, row, row + 1).data].filter(Number).length;
      const alone = (tensor: HostTensor) => sliceOf(rowsOf(tensor, row, row + 1), 1, 0, real);
      const own = { ids: alone(feeds.ids), mask: alone(feeds.mask) };
      const found = await evaluate(device, { encoded }, own, golden.weights);
      expectClose(`${name} row ${row} alone`, found["encoded"], alone(reference), { within: 1e-4 });
    }
  });

  it("decodes step by step from a cache as in one run", async () => {
    const { num_heads: heads, d_kv: size } = config;
    const layers = (of: (key: string) => ReturnType<typeof input>) =>
      Array.from({ length: model.cache.layers }, (_, i) => ({
        key: of(`${i}.key`),
        value: of(`${i}.value`),
      }));
    const encoded = model.encode({ inputsEmbeds: model.embed(ids), attentionMask: mask });
    const seen = Object.fromEntries(
      model.encoderKeyValues(encoded).flatMap(({ key, value }, i) => [
        [`seen.${i}.key`, key],
        [`seen.${i}.value`, value],
      ]),
    );
    const known = await evaluate(device, seen, feeds, golden.weights);
    const { lastHiddenState, present } = model.decode({
      inputsEmbeds: model.embed(input("ids", "int64", ["B", 1])),
      attentionMask: input("decoder_mask", "int64", ["B", "P+1"]),
      encoder: layers((key) => input(`seen.${key}`, "float32", ["B", heads, "S", size])),
      encoderMask: mask,
      past: layers((key) => input(`past.${key}`, "float32", ["B", heads, "P", size])),
    });
    const next = present.flatMap(({ key, value }, i) => [
      [`past.${i}.key`, key] as const,
      [`past.${i}.value`, value] as const,
    ]);
    const outputs = Object.fromEntries(next.map(([key, tensor]) => [`next ${key}`, tensor]));
    const step = await device.compile(
      { logits: model.logits(lastHiddenState), ...outputs },
      { weights: golden.weights },
    );
    const [batch, total] = feeds.decoder_ids.dims as [number, number];
    const empty = { dtype: "float32", dims: [batch, heads, 0, size], data: new Float32Array(0) } as const;
    let past: Record<string, HostTensor> = Object.fromEntries(next.map(([key]) => [key, empty]));
    for (let at = 0; at < total; at++) {
      const found = await step.run({
        ...known,
        ...past,
        ids: sliceOf(feeds.decoder_ids, 1, at, at + 1),
        mask: feeds.mask,
        decoder_mask: sliceOf(feeds.decoder_mask, 1, 0, at + 1),
      });
      const wanted = sliceOf(golden.outputs["logits"]!, 1, at, at + 1);
      expectClose(`${name} step ${at}`, found["logits"], wanted, { within: 1e-4 });
      past = Object.fromEntries(next.map(([key]) => [key, found[`next ${key}`]!]));
    }
    await step.release();
  });
});

describe("T5", async () => {
  const golden = await readGoldenCase("t5", "t5-1");
  const config = t5ConfigSchema.parse(golden.config);
  const declared = (weights: readonly string[], changes: Partial<T5Config> = {}) => {
    const { parameters } = build({ ...config, ...changes }, new Set(weights));
    return [...parameters.shapes.keys()].filter((key) => /^(shared|lm_head|\w+\.embed_tokens)\./.test(key));
  };

  it("takes the head and the word table from what a checkpoint has", () => {
    expect(declared(["shared.weight", "lm_head.weight"])).toEqual(["shared.weight", "lm_head.weight"]);
    expect(declared(["shared.weight", "encoder.embed_tokens.weight"])).toEqual(["shared.weight"]);
    expect(declared(["decoder.embed_tokens.weight"])).toEqual(["decoder.embed_tokens.weight"]);
    expect(declared(["lm_head.weight"])).toEqual(["lm_head.weight"]);
    const parameters = new Parameters(() => false);
    const { words, head } = new T5(
      { ...config, tie_word_embeddings: false },
      parameters.scope(),
    ) as unknown as { words: { weight: unknown }; head: unknown };
    expect(head).not.toBe(words.weight);
    expect(parameters.shapes.has("lm_head.weight")).toBe(true);
  });

  it.each([
    [{ feed_forward_proj: "gated-gelu" }, true],
    [{ feed_forward_proj: "silu", dense_act_fn: "gelu" }, true],
    [{ feed_forward_proj: "gated-mish" }, /feed_forward_proj.*one of gelu, /s],
    [{ dense_act_fn: "mish" }, /dense_act_fn/],
    [{ relative_attention_max_distance: 16 }, /more than half of relative_attention_num_buckets/],
    [{ relative_attention_num_buckets: 2 }, /relative_attention_num_buckets/],
  ])("checks the config %j", (fields, expected) => {
    const parsed = t5ConfigSchema.safeParse({ model_type: "t5", ...fields });
    if (expected === true) expect(parsed.success).toBe(true);
    else expect(String(parsed.error)).toMatch(expected as RegExp);
  });

  it("drops out where it trains", async () => {
    const { model } = build(config, golden.weights);
    const seed = input("seed", "uint64", []);
    const { loss } = whole(model, model.embed(ids), new Dropout(seed));
    const program = await device.compile({ loss }, { weights: golden.weights });
    const feeds = {
      ids: golden.inputs["input_ids"]!,
      mask: golden.inputs["attention_mask"]!,
      labels: golden.inputs["labels"]!,
      decoder_ids: shifted(golden.inputs["labels"]!),
      decoder_mask: onesLike(golden.inputs["labels"]!),
    };
    const at = async (value: bigint) => {
      const fed = { dtype: "uint64", dims: [], data: BigUint64Array.of(value) } as const;
      const found = await program.run({ ...feeds, seed: fed });
      return Number(found["loss"]!.data[0]);
    };
    const [first, again, other] = [await at(1n), await at(1n), await at(2n)];
    expect(again).toBe(first);
    expect(other).not.toBe(first);
    expect(first).not.toBeCloseTo(golden.scalars["loss"]!, 5);
    await program.release();
  });
});
