/** Checkpoints under LAVIS's names against the models of transformers that they were made from (reference/checkpoints.py). */
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { planConversion, type ConversionSources } from "../../src/conversion/plan.js";
import { writeConversion } from "../../src/conversion/write.js";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { openSafetensors, writeSafetensors } from "../../src/checkpoints/safetensors.js";
import { renameLavis } from "../../src/conversion/lavis-names.js";
import { checkConversion } from "../../src/conversion/check.js";
import { convert } from "../../src/cli/verbs/convert.js";
import { input } from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import { Blip2Runner } from "../../src/generation/blip-2-runner.js";
import type { Decoder } from "../../src/generation/decoder.js";
import { int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { FirstStage } from "../../src/models/blip-2-bridge.js";
import { blip2Config } from "../../src/models/blip-2.js";
import { qFormerConfigSchema } from "../../src/models/q-former.js";
import {
  parseVisionConfig,
  bridgeNormEpsilon,
  visionEncoder,
} from "../../src/models/vision/vision-encoder.js";
import { Parameters } from "../../src/nn/parameters.js";
import { blip2 } from "../cli/captured.js";
import { expectClose, type Tensors } from "../golden-case.js";

const golden = "test/golden/checkpoints";
const hints = { visionHeads: 2, visionLayers: 2, qformerHeads: 2 };
const opt: ConversionSources = {
  input: `${golden}/lavis-opt.pth`,
  vision: `${golden}/eva.pth`,
  languageModel: `${golden}/opt`,
};

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "blip2-convert-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function converted(sources: ConversionSources, name: string) {
  const plan = await checkConversion(await planConversion(sources, hints), sources.input);
  const out = join(folder, name);
  await writeConversion(plan, { out, dtype: "unchanged", files: {} });
  return { plan, opened: await readModelFolder(out) };
}

async function reference(name: string): Promise<{ weights: ReadonlyMap<string, HostTensor>; rest: Tensors }> {
  const tensors = await (await openSafetensors(`${golden}/${name}.safetensors`)).readAll();
  const isWeight = ([key]: readonly [string, HostTensor]): boolean => key.startsWith("weights/");
  return {
    weights: new Map(
      [...tensors].filter(isWeight).map(([key, value]) => [key.slice("weights/".length), value]),
    ),
    rest: Object.fromEntries([...tensors].filter((pair) => !isWeight(pair))),
  };
}

async function expectSameWeights(
  found: ReadonlyMap<string, HostTensor>,
  expected: ReadonlyMap<string, HostTensor>,
) {
  expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
  for (const [name, { dims, data }] of expected)
    expect([found.get(name)!.dims, found.get(name)!.data], name).toEqual([dims, data]);
}

describe("stage 2 with OPT, from three files", () => {
  it("has the very weights and computes the numbers, with LAVIS's epsilon", async () => {
    const { plan, opened } = await converted(opt, "opt");
    const { weights, rest } = await reference("lavis-opt");
    await expectSameWeights(await opened.weights.readAll(), weights);
    expect(plan.leftOut).toEqual(
      expect.arrayContaining(["optimizer", "epoch", "norm.weight", "head.bias", "lm_head.weight"]),
    );
    expect(plan.leftOut).toContain("vision_model.encoder.layers.2.mlp.fc1.weight");
    expect(opened.config).toMatchObject({
      architectures: ["Blip2ForConditionalGeneration"],
      num_query_tokens: 4,
      vision_config: { image_size: 12, patch_size: 4, num_hidden_layers: 2, post_layernorm_eps: 1e-5 },
      qformer_config: { num_hidden_layers: 3, cross_attention_frequency: 2, encoder_hidden_size: 20 },
      text_config: { model_type: "opt", hidden_size: 20 },
    });

    await using device = openDevice({ threads: 1 });
    const runner = await Blip2Runner.load(device, blip2Config(opened.config), opened.weights);
    const outputs = await runner.imageOutputs(rest["inputs/pixel_values"]!);
    expectClose("vision", outputs["visionFeatures"], rest["outputs/vision_last_hidden_state"], {
      within: 1e-5,
    });
    expectClose("queries", outputs["queryOutput"], rest["outputs/query_output"], { within: 1e-5 });
    const ids = rest["inputs/input_ids"]!;
    const [batch, length] = ids.dims as [number, number];
    const text = Array.from({ length: batch }, (_, b) =>
      Array.from((ids.data as BigInt64Array).slice(b * length + 4, (b + 1) * length)),
    );
    const logits = await (runner.languageModel as Decoder).forward({
      embeddings: outputs["languageProjection"]!,
      ids: int64Tensor(BigInt64Array.from(text.flat()), [batch, length - 4]),
      mask: int64Tensor(new BigInt64Array(batch * length).fill(1n), [batch, length]),
    });
    expectClose("logits", logits, rest["outputs/logits"], { within: 1e-4 });
  });

  it("names what is missing", async () => {
    await expect(planConversion({ input: opt.input }, hints)).rejects.toThrow(
      /give it with --vision \(eva_vit_g\.pth/,
    );
    await expect(planConversion({ input: opt.input, vision: opt.vision }, hints)).rejects.toThrow(
      /with --language-model/,
    );
    await expect(planConversion(opt, { ...hints, visionHeads: undefined })).rejects.toThrow(/--vision-heads/);
    await expect(planConversion(opt, { ...hints, visionLayers: undefined })).rejects.toThrow(
      /--vision-layers/,
    );
    await expect(planConversion(opt, { ...hints, qformerHeads: undefined })).rejects.toThrow(
      /--qformer-heads/,
    );
    await expect(planConversion({ ...opt, vision: `${golden}/forms/flat.pth` }, hints)).rejects.toThrow(
      /no vision transformer/,
    );
  });
});

describe("stage 1, from an old-style file with its own vision transformer", () => {
  it("has the very weights, the head and temperature of training, and computes the embeddings", async () => {
    const { plan, opened } = await converted({ input: `${golden}/lavis-itm.pth` }, "itm");
    const { weights, rest } = await reference("lavis-itm");
    const all = await opened.weights.readAll();
    const trained = [...all.keys()].filter((name) => name === "temp" || name.startsWith("cls."));
    expect(trained).toHaveLength(6);
    expect(all.get("temp")!.data).toEqual(Float32Array.of(0.05));
    await expectSameWeights(new Map([...all].filter(([name]) => !trained.includes(name))), weights);
    expect(plan.leftOut).toEqual([
      "Qformer.bert.embeddings.position_ids",
      "Qformer.cls.predictions.decoder.bias",
      "Qformer.cls.predictions.decoder.weight",
    ]);

    const parameters = new Parameters(() => false);
    const vision = parseVisionConfig(opened.config["vision_config"], "config.json");
    const encoder = visionEncoder(vision, parameters);
    const model = new FirstStage(
      {
        qformer: qFormerConfigSchema.parse(opened.config["qformer_config"]),
        visionNormEpsilon: bridgeNormEpsilon(vision),
        queryCount: 4,
        sharedSize: 8,
      },
      parameters.scope(),
    );
    const image = model.branch.imageKeyValues(encoder.features(input("pixels", "float32", ["B", 3, 12, 12])));
    const outputs = {
      images: model.imageEmbeds(model.branch.queries("B", image).lastHiddenState),
      texts: model.textEmbeds(input("ids", "int64", ["B", "T"]), input("mask", "int64", ["B", "T"])),
    };
    await using device = openDevice({ threads: 1 });
    const program = await device.compile(outputs, { weights: all });
    const ids = rest["inputs/input_ids"]!;
    const ones = int64Tensor(new BigInt64Array(ids.data.length).fill(1n), ids.dims);
    const { images, texts } = await program.run({ pixels: rest["inputs/pixel_values"]!, ids, mask: ones });
    expectClose("images", images, rest["outputs/image_embeds"], { within: 1e-5 });
    expectClose("texts", texts, rest["outputs/text_embeds"], { within: 1e-5 });
  });

  it("names tensors that it does not know", async () => {
    const path = join(folder, "extra.safetensors");
    const tensors = await (await openSafetensors(`${golden}/forms.safetensors`)).readAll(["float32"]);
    await writeSafetensors(path, {
      query_tokens: tensors.get("float32")!,
      "ln_vision.weight": tensors.get("float32")!,
      "adapter.x": tensors.get("float32")!,
    });
    await expect(planConversion({ input: path }, hints)).rejects.toThrow(
      /1 of its tensors are not of LAVIS's BLIP-2[^]*adapter\.x/,
    );
  });
});

describe("vision transformers alone", () => {
  it("EVA becomes a Blip2VisionModel without its last block", async () => {
    const { plan, opened } = await converted({ input: `${golden}/eva.pth` }, "eva");
    expect(plan.architecture).toBe("Blip2VisionModel");
    const { weights } = await reference("lavis-opt");
    const all = await opened.weights.readAll();
    for (const [name, tensor] of all) {
      if (!name.startsWith("post_layernorm"))
        expect(tensor.data, name).toEqual(weights.get(`vision_model.${name}`)!.data);
    }
    expect(all.size).toBe([...weights.keys()].filter((name) => name.startsWith("vision_model.")).length);
    expect(all.get("post_layernorm.weight")!.data).toEqual(new Float32Array(20).fill(1));
  });

  it("CLIP becomes a CLIPVisionModel, its projections apart", async () => {
    const { plan, opened } = await converted({ input: `${golden}/clip.pth` }, "clip");
    expect(plan.config).toMatchObject({ num_hidden_layers: 2, hidden_act: "quick_gelu", image_size: 8 });
    expect(plan.leftOut).toEqual(["proj"]);
    await expectSameWeights(
      await opened.weights.readAll(),
      await (await openSafetensors(`${golden}/clip.safetensors`)).readAll(),
    );
  });
});

describe("blip2 convert", () => {
  it("converts a folder with pytorch_model.bin, and says what it did", async () => {
    const out = join(folder, "from-bin");
    const bin = join(folder, "bin");
    await cp(`${golden}/opt`, bin, { recursive: true });
    const config = JSON.parse(await readFile(join(bin, "config.json"), "utf8")) as object;
    await writeFile(
      join(bin, "config.json"),
      JSON.stringify({ ...config, architectures: ["OPTForCausalLM"] }),
    );
    await writeFile(join(bin, "generation_config.json"), "{}");
    const { code, stdout } = await blip2(["convert", bin, out, "--dtype", "float16", "--json"]);
    expect(code).toBe(0);
    const line = JSON.parse(stdout) as Record<string, unknown>;
    expect(Object.keys(line).sort()).toEqual(Object.keys(convert.jsonKeys).sort());
    expect(line).toMatchObject({
      out,
      architecture: "OPTForCausalLM",
      leftOut: ["lm_head.weight"],
      files: ["generation_config.json"],
    });
    const { weights, config: written } = await readModelFolder(out);
    expect(weights.tensors.get("model.decoder.embed_tokens.weight")!.dtype).toBe("float16");
    expect(written["dtype"]).toBe("float16");
  });

  it("refuses a hostile file with a message and leaves nothing behind", async () => {
    const path = join(folder, "evil.pth");
    await writeFile(path, Buffer.from("\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR.", "latin1"));
    const out = join(folder, "evil");
    const { code, stderr } = await blip2(["convert", path, out]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/evil\.pth/);
    await expect(readFile(join(out, "config.json"))).rejects.toThrow(/ENOENT/);
  });
});

describe("tensors that do not fit", () => {
  const fixed = (...dims: number[]) => ({
    dtype: "float32" as const,
    dims,
    read: () => Promise.reject(new Error("is not read")),
  });

  it("the decoder's bias stands in for one that is an entry short", () => {
    const named = (biasLength: number) =>
      renameLavis(
        new Map([
          ["Qformer.bert.embeddings.word_embeddings.weight", fixed(30523, 8)],
          ["Qformer.cls.predictions.bias", fixed(biasLength)],
          ["Qformer.cls.predictions.decoder.bias", fixed(30523)],
        ]),
      );
    expect(named(30522).tensors.get("cls.predictions.bias")!.dims).toEqual([30523]);
    expect(named(30522).dropped).toEqual(["Qformer.cls.predictions.bias"]);
    expect(named(30523).dropped).toEqual(["Qformer.cls.predictions.decoder.bias"]);
  });

  it("a head that the class does not have is left out and named; a missing layer is refused", async () => {
    const { opened } = await converted(opt, "whole");
    const weights = await opened.weights.readAll();
    const source = join(folder, "with a head");
    await cp(opened.path, source, { recursive: true });
    const file = join(source, "model.safetensors");
    await writeSafetensors(file, new Map([...weights, ["score.weight", int64Tensor([1, 2], [2])]]));
    const { plan, opened: again } = await converted({ input: source }, "without the head");
    expect(plan.leftOut).toContain("score.weight");
    expect([...again.weights.tensors.keys()].sort()).toEqual([...weights.keys()].sort());
    weights.delete([...weights.keys()].find((name) => name.includes("self_attn"))!);
    await writeSafetensors(file, weights);
    await expect(converted({ input: source }, "broken")).rejects.toThrow(/1 missing:/);
  });
});
