/**
 * Trains the tiny chain and writes what this package computes from each folder, for Python to compare
 * (reference/check_export.py): `node --import tsx test/training/export-outputs.ts FOLDER`. Makes FOLDER/language-model,
 * vision, stage1, stage2, stage2-t5 and stage2-t5-tied (runs), FOLDER/outputs.safetensors and FOLDER/outputs.json.
 */
import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { toFloat32 } from "../../src/float16.js";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { writeSafetensors } from "../../src/checkpoints/safetensors.js";
import { sliceOf } from "../../src/data/dataset.js";
import { openData } from "../../src/data/open-data.js";
import { input } from "../../src/engine/index.js";
import { int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { loadImage } from "../../src/images/load-image.js";
import { preprocess, preprocessConfig } from "../../src/images/preprocess.js";
import { Blip2 } from "../../src/index.js";
import { Opt, optConfigSchema } from "../../src/models/language/opt.js";
import { visionEncoder } from "../../src/models/vision/vision-encoder.js";
import { Parameters } from "../../src/nn/parameters.js";
import { loadTokenizer } from "../../src/text/tokenizer.js";
import { openFrozenVision } from "../../src/loading/frozen-vision.js";
import { firstStageOf } from "../../src/recipes/stage-1.js";
import { qFormerConfigSchema } from "../../src/models/q-former.js";
import { evaluate, testDevice } from "../nn/evaluate.js";
import { writeTinyT5 } from "./tiny-t5.js";
import { makeTinyWorld, stageNames } from "./tiny-world.js";

const out = process.argv[2]!;
const world = await makeTinyWorld();
for (const stage of stageNames) {
  await world.train(stage, stage, { steps: 8 });
  await cp(join(world.root, stage), join(out, stage), { recursive: true });
}
const set = await openData(world.data, "train").captions();
const captions = (await sliceOf(set, 0, set.length)).flatMap((shown) => shown.captions);
for (const [run, tied] of [
  ["stage2-t5", false],
  ["stage2-t5-tied", true],
] as const) {
  const languageModel = join(world.root, `${run}-language-model`);
  await writeTinyT5(languageModel, captions, { tie_word_embeddings: tied });
  await world.train("stage2", run, { steps: 8, languageModel });
  await cp(join(world.root, run), join(out, run), { recursive: true });
}
const picture = join(out, "picture.png");
await cp(join(world.data, "images", "test", "000000.png"), picture);
await world.remove();

const device = testDevice();
const outputs: Record<string, HostTensor> = {};
const texts = ["a red star on sand", "there are two blue fish and a large green cup at night"];
const folderOf = (stage: string): string => join(out, stage, "model");
const weightsOf = async (stage: string, prefix = ""): Promise<Map<string, HostTensor>> => {
  const { weights } = await readModelFolder(folderOf(stage));
  return new Map([...(await weights.readAll())].map(([name, value]) => [prefix + name, toFloat32(value)]));
};

// The language model.
{
  const { config } = await readModelFolder(folderOf("language-model"));
  const model = new Opt(optConfigSchema.parse(config), new Parameters(() => false).scope());
  const tokenizer = await loadTokenizer(folderOf("language-model"));
  const { inputIds, attentionMask } = tokenizer.encodeBatch(texts, { side: "right" });
  const [ids, mask] = [input("ids", "int64", ["B", "T"]), input("mask", "int64", ["B", "T"])];
  const { lastHiddenState } = model.forward({ inputsEmbeds: model.embed(ids), attentionMask: mask });
  const feeds = { ids: inputIds, mask: attentionMask };
  const { logits } = await evaluate(
    device,
    { logits: model.logits(lastHiddenState) },
    feeds,
    await weightsOf("language-model"),
  );
  Object.assign(outputs, {
    "language-model/ids": inputIds,
    "language-model/mask": attentionMask,
    "language-model/logits": logits!,
  });
}

// The vision model.
const vision = openFrozenVision(await readModelFolder(folderOf("vision")));
const preprocessing = preprocessConfig(vision.folder.preprocessor!);
const pixels = preprocess([await loadImage(picture)], preprocessing);
{
  const encoder = visionEncoder(vision.config, new Parameters(() => false));
  const side = vision.config.image_size;
  const graph = { features: encoder.features(input("pixels", "float32", ["B", 3, side, side])) };
  const { features } = await evaluate(device, graph, { pixels }, await weightsOf("vision", "vision_model."));
  Object.assign(outputs, { "vision/pixels": pixels, "vision/features": features! });
}

// Stage 1.
{
  const stage1 = openFrozenVision(await readModelFolder(folderOf("stage1")));
  const { config } = stage1.folder;
  const parameters = new Parameters(() => false);
  const qformer = qFormerConfigSchema.parse(config["qformer_config"]);
  const queries = Number(config["num_query_tokens"]);
  const shape = {
    queries,
    sharedSize: Number(config["image_text_hidden_size"]),
    matching: "two-class" as const,
  };
  const model = firstStageOf(shape, qformer, stage1, parameters);
  const { inputIds, attentionMask } = (await loadTokenizer(folderOf("stage1"))).encodeBatch(texts, {
    side: "right",
  });
  const features = outputs["vision/features"]!;
  const image = model.branch.imageKeyValues(input("features", "float32", features.dims));
  const [ids, mask] = [input("ids", "int64", inputIds.dims), input("mask", "int64", inputIds.dims)];
  const imageEmbeds = model.imageEmbeds(model.branch.queries(1, image).lastHiddenState);
  const results: Record<string, HostTensor> = {};
  const weights = await weightsOf("stage1");
  for (const [row] of texts.entries()) {
    const oneRow = (tensor: HostTensor): HostTensor => {
      const width = tensor.dims[1]!;
      return int64Tensor((tensor.data as BigInt64Array).slice(row * width, (row + 1) * width), [1, width]);
    };
    const [one, oneMask] = [input("ids", "int64", [1, "T"]), input("mask", "int64", [1, "T"])];
    const { logits: matching } = model.matching(image, one, oneMask);
    const feeds = { features, ids: oneRow(inputIds), mask: oneRow(attentionMask) };
    results[`stage1/matching${row}`] = (await evaluate(device, { matching }, feeds, weights))["matching"]!;
  }
  const graph = { imageEmbeds, textEmbeds: model.textEmbeds(ids, mask) };
  const embeds = await evaluate(device, graph, { features, ids: inputIds, mask: attentionMask }, weights);
  Object.assign(outputs, results, {
    "stage1/ids": inputIds,
    "stage1/mask": attentionMask,
    "stage1/image_embeds": embeds["imageEmbeds"]!,
    "stage1/text_embeds": embeds["textEmbeds"]!,
  });
}

// Stage 2, with each kind of language model.
const written: Record<string, object> = {};
for (const run of ["stage2", "stage2-t5", "stage2-t5-tied"]) {
  await using model = await Blip2.load(folderOf(run), { threads: 1 });
  const { num_query_tokens: queries, image_token_index: imageToken, text_config: text } = model.config;
  const tokenizer = await loadTokenizer(folderOf(run));
  const words = tokenizer.encode(texts[0]!);
  const inputIds = int64Tensor(
    [...Array<number>(queries).fill(imageToken!), ...words],
    [1, queries + words.length],
  );
  outputs[`${run}/ids`] = inputIds;
  const said = tokenizer.encode(texts[1]!);
  const labels = int64Tensor(said, [1, said.length]);
  const isT5 = text.model_type === "t5";
  const forward = await model.forward({ pixelValues: pixels, inputIds, ...(isT5 && { labels }) });
  outputs[`${run}/logits`] = forward.logits;
  outputs[`${run}/language_projection`] = forward.languageProjection;
  if (isT5) Object.assign(outputs, { [`${run}/labels`]: labels, [`${run}/loss`]: forward.loss! });
  // A random T5 may end at once, which would say little.
  const settings = { image: picture, maxNewTokens: 12, minNewTokens: isT5 ? 6 : 1 };
  const found: Record<string, string> = {};
  for (const [name, numBeams] of [
    ["greedy", 1],
    ["beams", 3],
  ] as const) {
    const { tokenIds, text: said } = await model.generate({ ...settings, numBeams });
    outputs[`${run}/${name}`] = int64Tensor(tokenIds, [tokenIds.length]);
    found[name] = said;
  }
  written[run] = found;
}

await device.close();
await writeSafetensors(join(out, "outputs.safetensors"), outputs);
await writeFile(join(out, "outputs.json"), JSON.stringify({ texts, ...written }));
