/** The whole models of transformers, put together from their parts here. */
import { afterAll, describe, expect, it } from "vitest";
import { input, ops } from "../../src/engine/index.js";
import type { HostTensor } from "../../src/host-tensor.js";
import { UserError } from "../../src/errors.js";
import { blip2Config } from "../../src/models/blip-2.js";
import { FirstStage, SecondStage } from "../../src/models/blip-2-bridge.js";
import { Blip2VisionModel, blip2VisionConfigSchema } from "../../src/models/vision/blip-2-vision.js";
import { Opt, optConfigSchema } from "../../src/models/language/opt.js";
import { qFormerConfigSchema } from "../../src/models/q-former.js";
import { bidirectionalMask, withQueries } from "../../src/nn/attention-masks.js";
import { Parameters } from "../../src/nn/parameters.js";
import { maxOverQueries } from "../../src/objectives/contrastive.js";
import { softPromptLoss } from "../../src/objectives/stage-2.js";
import { expectClose, goldenNames, readGoldenCase } from "../golden-case.js";
import { evaluate, sliceOf, testDevice } from "../nn/evaluate.js";

const device = testDevice();
afterAll(() => device.close());

interface Config {
  readonly num_query_tokens: number;
  readonly image_text_hidden_size: number;
  readonly image_token_index: number | null;
  readonly vision_config: Readonly<Record<string, unknown>>;
  readonly qformer_config: Readonly<Record<string, unknown>>;
  readonly text_config: Readonly<Record<string, unknown>>;
}

const shapesOf = (weights: ReadonlyMap<string, HostTensor>) =>
  Object.fromEntries([...weights].map(([key, { dims }]) => [key, dims]));

const ids = input("ids", "int64", ["B", "T"]);
const mask = input("mask", "int64", ["B", "T"]);

function parts(config: Config) {
  const vision = blip2VisionConfigSchema.parse(config.vision_config);
  const parameters = new Parameters(() => false);
  const pixels = input("pixel_values", "float32", ["B", 3, vision.image_size, vision.image_size]);
  const encoder = new Blip2VisionModel(vision, parameters.scope("vision_model"));
  const bridge = {
    qformer: qFormerConfigSchema.parse(config.qformer_config),
    visionNormEpsilon: vision.layer_norm_eps,
    queryCount: config.num_query_tokens,
  };
  return { parameters, encoder, pixels, bridge, features: encoder.features(pixels).at(-1)! };
}

/** The text part of ids or a mask that begin with image tokens. */
const textOf = (tensor: HostTensor, imageTokens: number) => sliceOf(tensor, 1, imageTokens, tensor.dims[1]!);

it("shows a long value of a config cut", () => {
  const long = "x".repeat(100_000);
  for (const json of [
    { model_type: long },
    { model_type: "blip-2", text_config: { model_type: long } },
    { model_type: "blip-2", text_config: { model_type: "opt", num_hidden_layers: long } },
    { model_type: "blip-2", num_query_tokens: [long] },
  ]) {
    const problem = (): unknown => blip2Config(json);
    expect(problem).toThrow(UserError);
    expect(problem).toThrow(/^.{1,4000}$/);
  }
});

describe.each(goldenNames("models", "retrieval"))("%s", async (name) => {
  const golden = await readGoldenCase<Config>("models", name);
  const { config } = golden;
  const { parameters, encoder, pixels, bridge, features } = parts(config);
  const model = new FirstStage({ ...bridge, sharedSize: config.image_text_hidden_size }, parameters.scope());
  const imageTokens =
    config.image_token_index === null || config.image_token_index === undefined ? 0 : config.num_query_tokens;
  const feeds = {
    pixel_values: golden.inputs["pixel_values"]!,
    ids: textOf(golden.inputs["input_ids"]!, imageTokens),
    mask: textOf(golden.inputs["attention_mask"]!, imageTokens),
  };

  it("has the checkpoint's parameters, and those that transformers drops", () => {
    const { temp: _, ...shapes } = Object.fromEntries(parameters.shapes);
    const kept = Object.entries(shapes).filter(([key]) => !key.startsWith("cls.predictions."));
    encoder.normalise(features);
    expect(Object.fromEntries(kept)).toEqual(shapesOf(golden.weights));
  });

  it("agrees on contrast and on matching", async () => {
    const image = model.branch.imageKeyValues(features);
    const queryOutput = model.branch.queries("B", image).lastHiddenState;
    const imageEmbeds = model.imageEmbeds(queryOutput);
    const textEmbeds = model.textEmbeds(ids, mask);
    const best = maxOverQueries(textEmbeds, imageEmbeds);
    const queries = model.branch.queryTokens;
    const joint = model.branch.qformer.forward({
      queries: queries.forward("B"),
      text: model.embeddings.forward(ids),
      image,
      mask: bidirectionalMask(mask, queries.count),
    }).lastHiddenState;
    const { logits } = model.matching(image, ids, mask);
    const outputs = {
      vision_last_hidden_state: encoder.forward(pixels).lastHiddenState,
      image_embeds: imageEmbeds,
      text_embeds: textEmbeds,
      itc_logits_per_text: best,
      itc_logits_per_image: ops.transpose(best, [1, 0]),
      itm_logits: logits,
      itm_last_hidden_state: joint,
      rows: withQueries(mask, queries.count),
    };
    const found = await evaluate(device, outputs, feeds, golden.weights);
    for (const key of Object.keys(outputs).filter((output) => output !== "rows")) {
      const rows = key === "itm_last_hidden_state" ? found["rows"] : undefined;
      expectClose(`${name} ${key}`, found[key], golden.outputs[key], { within: 1e-4, rows });
    }
  });
});

describe.each(goldenNames("models", "blip2-opt"))("%s", async (name) => {
  const golden = await readGoldenCase<Config>("models", name);
  const { config } = golden;
  const { parameters, encoder, pixels, bridge, features } = parts(config);
  const languageConfig = optConfigSchema.parse(config.text_config);
  const model = new SecondStage({ ...bridge, languageSize: languageConfig.hidden_size }, parameters.scope());
  const languageModel = new Opt(languageConfig, parameters.scope("language_model"));
  const count = config.num_query_tokens;
  const text = (key: string) => textOf(golden.inputs[key]!, count);
  const feeds = {
    pixel_values: golden.inputs["pixel_values"]!,
    ids: text("input_ids"),
    mask: text("attention_mask"),
    labels: text("labels"),
  };

  it("has the checkpoint's parameters", () => {
    encoder.normalise(features);
    expect(Object.fromEntries(parameters.shapes)).toEqual(shapesOf(golden.weights));
  });

  it("agrees from picture and left-padded prompt to logits and loss", async () => {
    const { queryOutput, softPrompt } = model.forward(features);
    const { lastHiddenState } = languageModel.forward({
      inputsEmbeds: ops.concat([softPrompt, languageModel.embed(ids)], 1),
      attentionMask: withQueries(mask, count),
    });
    const labels = input("labels", "int64", ["B", "T"]);
    const outputs = {
      vision_last_hidden_state: encoder.forward(pixels).lastHiddenState,
      query_output: queryOutput,
      language_projection: softPrompt,
      logits: languageModel.logits(lastHiddenState),
      loss: softPromptLoss(model, languageModel, { features, ids, mask, labels }),
    };
    const found = await evaluate(device, outputs, feeds, golden.weights);
    for (const key of ["vision_last_hidden_state", "query_output", "language_projection", "logits"]) {
      const rows = key === "logits" ? golden.inputs["attention_mask"] : undefined;
      expectClose(`${name} ${key}`, found[key], golden.outputs[key], { within: 1e-4, rows });
    }
    const loss = golden.scalars["loss"];
    if (typeof loss === "number") expect(Number(found["loss"]!.data[0])).toBeCloseTo(loss, 5);
  });
});
