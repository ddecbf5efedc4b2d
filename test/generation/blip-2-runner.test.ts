import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { JsonObject } from "../../src/files/json-file.js";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { Blip2 } from "../../src/generation/blip-2.js";
import { Blip2Runner } from "../../src/generation/blip-2-runner.js";
import { generateTokens } from "../../src/generation/search/generate.js";
import { float32Tensor, int64Tensor } from "../../src/host-tensor.js";
import { blip2Config } from "../../src/models/blip-2.js";
import { expectClose, goldenNames, readGoldenCase } from "../golden-case.js";
import { sliceOf, testDevice } from "../nn/evaluate.js";
import { asMatrix, goldenRuns, rowsOf, settingsOf } from "./golden.js";
import { temporaryFolder, writeGoldenModel } from "./tiny-model.js";

const device = testDevice();
let root: string;
beforeAll(async () => {
  root = await temporaryFolder();
});
afterAll(async () => {
  await device.close();
  await rm(root, { recursive: true });
});

describe.each(goldenNames("models", "blip2-opt"))("%s", async (name) => {
  const golden = await readGoldenCase<JsonObject>("models", name);
  const { generate, generate_defaults: defaults } = goldenRuns(name);
  const config = blip2Config(golden.config);
  const queries = config.num_query_tokens;
  const imageToken = config.image_token_index!;
  const pixels = golden.inputs["pixel_values"]!;
  const batch = pixels.dims[0]!;
  let runner: Blip2Runner;
  beforeAll(async () => {
    const folder = await writeGoldenModel(join(root, name), golden);
    runner = await Blip2Runner.load(device, config, (await readModelFolder(folder)).weights);
  });

  it.each(generate.map((run) => [`${run.prompt} ${JSON.stringify(run.options)}`, run] as const))(
    "generates as transformers: %s",
    async (_, run) => {
      const [ids, mask] = [golden.inputs["input_ids"]!, golden.inputs["attention_mask"]!];
      const prompted = run.prompt === "prompt";
      const text = prompted
        ? sliceOf(ids, 1, queries, ids.dims[1]!)
        : int64Tensor(Array<number>(batch).fill(config.text_config.bos_token_id!), [batch, 1]);
      const length = queries + text.dims[1]!;
      const prompt = {
        embeddings: await runner.softPrompts(pixels),
        ids: text,
        mask: prompted ? mask : int64Tensor(Array<number>(batch * length).fill(1), [batch, length]),
        softId: imageToken,
      };
      const results = await generateTokens(
        runner.languageModel.begin(),
        prompt,
        settingsOf(run, defaults.eos_token_id),
      );
      const before = rowsOf(text).map((row) => [...Array<number>(queries).fill(imageToken), ...row]);
      expect(asMatrix(before, results, defaults.pad_token_id)).toEqual(
        rowsOf(golden.outputs[`${run.name}.ids`]!),
      );
      const scores = golden.outputs[`${run.name}.scores`];
      if (scores === undefined) return;
      const found = results.flatMap((sequences) => sequences.map(({ score }) => score));
      expectClose(`${run.name} scores`, float32Tensor(found, [found.length]), scores, { within: 1e-4 });
    },
  );

  it("gives the numbers of a forward pass as transformers", async () => {
    await using model = await Blip2.load(join(root, name), { threads: 1 });
    const mask = golden.inputs["attention_mask"]!;
    const found = await model.forward({
      pixelValues: pixels,
      inputIds: golden.inputs["input_ids"]!,
      attentionMask: mask,
      labels: golden.inputs["labels"]!,
    });
    const pairs = {
      visionFeatures: "vision_last_hidden_state",
      queryOutput: "query_output",
      languageProjection: "language_projection",
    } as const;
    for (const [ours, theirs] of Object.entries(pairs)) {
      expectClose(`${name} ${ours}`, found[ours as keyof typeof pairs], golden.outputs[theirs], {
        within: 1e-4,
      });
    }
    expectClose(`${name} logits`, found.logits, golden.outputs["logits"], { within: 1e-4, rows: mask });
    const loss = golden.scalars["loss"];
    expect(found.loss!.dims).toEqual([]);
    if (typeof loss === "number") expect(Number(found.loss!.data[0])).toBeCloseTo(loss, 5);
    else expect(Number(found.loss!.data[0])).toBeNaN();
  });
});
