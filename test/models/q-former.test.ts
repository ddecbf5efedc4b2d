import { afterAll, describe, expect, it } from "vitest";
import { input, ops, type Tensor } from "../../src/engine/index.js";
import { int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { QFormer, QueryTokens, TextEmbeddings, qFormerConfigSchema } from "../../src/models/q-former.js";
import {
  bidirectionalMask,
  cachedMultimodalCausalMask,
  multimodalCausalMask,
  paddingMask,
  unimodalMask,
  withQueries,
} from "../../src/nn/attention-masks.js";
import { Parameters } from "../../src/nn/parameters.js";
import { difference, expectClose, goldenNames, readGoldenCase } from "../golden-case.js";
import { evaluate, rowsOf, sliceOf, testDevice } from "../nn/evaluate.js";

const device = testDevice();
afterAll(() => device.close());

interface Config {
  readonly num_query_tokens: number;
  readonly qformer_config: Readonly<Record<string, unknown>>;
}

describe.each(goldenNames("models", "qformer"))("%s", async (name) => {
  const golden = await readGoldenCase<Config>("models", name);
  const config = qFormerConfigSchema.parse(golden.config.qformer_config);
  const count = golden.config.num_query_tokens;
  const parameters = new Parameters(() => false);
  const queryTokens = new QueryTokens(count, config.hidden_size, parameters.scope());
  const qformer = new QFormer(config, parameters.scope("qformer"));
  const embeddings = new TextEmbeddings(config, parameters.scope("embeddings"));

  const imageEmbeds = input("image_embeds", "float32", ["B", "P", config.encoder_hidden_size]);
  const ids = input("input_ids", "int64", ["B", "T"]);
  const mask = input("attention_mask", "int64", ["B", "T"]);
  const image = qformer.imageKeyValues(imageEmbeds);
  const queries = queryTokens.forward("B");
  const text = embeddings.forward(ids);

  const alone = qformer.forward({ queries, image });
  const textOnly = qformer.forward({ text, mask: paddingMask(mask) });
  const joint = (joined: Tensor) => qformer.forward({ queries, text, image, mask: joined }).lastHiddenState;
  const partOf = (x: Tensor, part: "queries" | "text") =>
    part === "queries" ? ops.slice(x, 1, 0, count) : ops.slice(x, 1, count, "T");
  const run = (outputs: Record<string, Tensor>, feeds: Record<string, HostTensor> = {}) =>
    evaluate(device, outputs, { ...golden.inputs, ...feeds }, golden.weights);
  const textRows = golden.inputs["attention_mask"]!;

  it("has the checkpoint's parameters", () => {
    const stored = [...golden.weights].map(([key, { dims }]) => [key, dims]);
    expect(Object.fromEntries(parameters.shapes)).toEqual(Object.fromEntries(stored));
  });

  it("agrees with transformers on queries alone", async () => {
    const found = await run({ output: alone.lastHiddenState });
    expectClose(`${name} queries`, found["output"], golden.outputs["query_output"], { within: 1e-4 });
  });

  it("agrees with transformers on text alone", async () => {
    const found = await run({ output: textOnly.lastHiddenState });
    const reference = golden.outputs["text_last_hidden_state"];
    expectClose(`${name} text`, found["output"], reference, { within: 1e-4, rows: textRows });
  });

  it("agrees with transformers on queries and text together", async () => {
    const found = await run({
      output: joint(bidirectionalMask(mask, count)),
      rows: withQueries(mask, count),
    });
    const reference = golden.outputs["joint_last_hidden_state"];
    expectClose(`${name} joint`, found["output"], reference, { within: 1e-4, rows: found["rows"] });
  });

  it("gives a pair the same output alone as in its batch", async () => {
    const last = textRows.dims[0]! - 1;
    const real = [...rowsOf(textRows, last, last + 1).data].filter(Number).length;
    const one = (key: string) => rowsOf(golden.inputs[key]!, last, last + 1);
    const found = await run(
      { output: joint(bidirectionalMask(mask, count)) },
      {
        image_embeds: one("image_embeds"),
        input_ids: sliceOf(one("input_ids"), 1, 0, real),
        attention_mask: sliceOf(one("attention_mask"), 1, 0, real),
      },
    );
    const reference = rowsOf(golden.outputs["joint_last_hidden_state"]!, last, last + 1);
    expectClose(`${name} alone`, found["output"], sliceOf(reference, 1, 0, count + real), { within: 1e-4 });
  });

  it("generates from cached queries as in one run under the multimodal causal mask", async () => {
    const cached = qformer.forward({
      text,
      past: alone.present,
      mask: cachedMultimodalCausalMask(mask, count),
    });
    const oneRun = joint(multimodalCausalMask(mask, count));
    const found = await run({
      queries: alone.lastHiddenState,
      text: cached.lastHiddenState,
      oneRunQueries: partOf(oneRun, "queries"),
      oneRunText: partOf(oneRun, "text"),
    });
    expectClose(`${name} cached, queries`, found["queries"], found["oneRunQueries"], { within: 1e-5 });
    expectClose(`${name} cached, text`, found["text"], found["oneRunText"], { within: 1e-5 });
  });

  it("gives text no sight of later text in the cached run, and of the queries alone", async () => {
    const { lastHiddenState } = qformer.forward({
      text,
      past: alone.present,
      mask: cachedMultimodalCausalMask(mask, count),
    });
    const original = golden.inputs["input_ids"]!;
    const length = original.dims[1]!;
    const ids2 = [...original.data].map((id, i) => (i % length === length - 1 ? 5 : Number(id)));
    const before = await run({ output: lastHiddenState });
    const after = await run({ output: lastHiddenState }, { input_ids: int64Tensor(ids2, original.dims) });
    const seen = (tensor: HostTensor) => sliceOf(tensor, 1, 0, length - 1);
    expectClose(`${name} later text`, seen(after["output"]!), seen(before["output"]!), { within: 1e-6 });
    const picture = golden.inputs["image_embeds"]!;
    const other = { ...picture, data: (picture.data as Float32Array).map((value) => value + 1) };
    const shifted = await run({ output: lastHiddenState }, { image_embeds: other });
    expect(difference(shifted["output"]!, before["output"]!).absolute).toBeGreaterThan(1e-3);
  });

  it("runs queries and text apart as in one run under the unimodal mask", async () => {
    const oneRun = joint(unimodalMask(mask, count));
    const found = await run({
      queries: alone.lastHiddenState,
      text: textOnly.lastHiddenState,
      oneRunQueries: partOf(oneRun, "queries"),
      oneRunText: partOf(oneRun, "text"),
    });
    expectClose(`${name} apart, queries`, found["queries"], found["oneRunQueries"], { within: 1e-5 });
    expectClose(`${name} apart, text`, found["text"], found["oneRunText"], { within: 1e-5 });
  });

  it("gives leading positions alone as it gives them among all", async () => {
    const inputs = { queries, text, image, mask: multimodalCausalMask(mask, count) };
    const all = qformer.forward(inputs).lastHiddenState;
    for (const leading of [count, count + 1]) {
      const some = qformer.forward({ ...inputs, leading }).lastHiddenState;
      expect(some.shape).toEqual(["B", leading, config.hidden_size]);
      const found = await run({ some, all: ops.slice(all, 1, 0, leading) });
      expectClose(`${name} leading ${leading}`, found["some"], found["all"], { within: 1e-5 });
    }
    expect(() => qformer.forward({ ...inputs, leading: count - 1 })).toThrow("fewer than");
  });

  it("has cross-attention in every so many layers", () => {
    const layers = Array.from({ length: config.num_hidden_layers }, (_, i) => i);
    expect([...image.keys()]).toEqual(layers.filter((i) => i % config.cross_attention_frequency === 0));
  });
});

describe("a Q-Former without text branch", () => {
  const config = qFormerConfigSchema.parse({
    hidden_size: 8,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 8,
    encoder_hidden_size: 6,
  });
  const parameters = new Parameters(() => false);
  const qformer = new QFormer(config, parameters.scope("qformer"));

  it("declares no text weights and refuses text", () => {
    expect([...parameters.shapes.keys()].filter((key) => /\.(intermediate|output)\.dense/.test(key))).toEqual(
      [
        "qformer.encoder.layer.0.attention.output.dense.weight",
        "qformer.encoder.layer.0.attention.output.dense.bias",
        "qformer.encoder.layer.0.crossattention.output.dense.weight",
        "qformer.encoder.layer.0.crossattention.output.dense.bias",
        "qformer.encoder.layer.1.attention.output.dense.weight",
        "qformer.encoder.layer.1.attention.output.dense.bias",
      ],
    );
    const text = input("text", "float32", [1, 3, 8]);
    expect(() => qformer.forward({ text })).toThrow("this checkpoint has no text branch");
  });

  it("refuses queries without an image, and nothing at all", () => {
    const queries = input("queries", "float32", [1, 3, 8]);
    expect(() => qformer.forward({ queries })).toThrow("queries need the keys and values of an image");
    expect(() => qformer.forward({})).toThrow("needs queries, text or both");
  });
});
