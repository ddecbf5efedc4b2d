import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { JsonObject } from "../../src/files/json-file.js";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { InternalError, InterruptedError } from "../../src/errors.js";
import { Blip2 } from "../../src/generation/blip-2.js";
import { Blip2Runner } from "../../src/generation/blip-2-runner.js";
import { EncoderDecoder } from "../../src/generation/encoder-decoder.js";
import { generateTokens, generationSteps } from "../../src/generation/search/generate.js";
import type { Prompt } from "../../src/generation/search/stepper.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { blip2Config } from "../../src/models/blip-2.js";
import { T5, t5ConfigSchema } from "../../src/models/language/t5.js";
import { Parameters } from "../../src/nn/parameters.js";
import { expectClose, goldenNames, readGoldenCase } from "../golden-case.js";
import { sliceOf, rowsOf as takeRows, testDevice } from "../nn/evaluate.js";
import { asMatrix, goldenRuns, idPrompt, rowsOf, settingsOf, type GoldenRun } from "./golden.js";
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

async function load(name: string) {
  const golden = await readGoldenCase("t5", name);
  const config = t5ConfigSchema.parse(golden.config);
  const model = new T5(config, new Parameters(() => false).scope(), golden.weights);
  const prompt: Prompt = {
    ...idPrompt(golden.inputs["input_ids"]!, golden.inputs["attention_mask"]!, model.embeddingSize),
    decoderStartId: 0,
  };
  return { golden, model, prompt, runs: goldenRuns(name, "t5") };
}

/** What transformers fills rows with: beam search takes a padding id of 0 for none, and the end id in its place. */
const fillOf = ({ options }: GoldenRun, endId: number) => (options["num_beams"] === 1 ? 0 : endId);

const expectScores = (name: string, scores: readonly number[], reference: HostTensor | undefined) => {
  if (reference === undefined) return;
  // A negative length penalty makes scores of hundreds: each is measured by its own size.
  const wanted = [...(reference.data as Float32Array)];
  const sizes = wanted.map((score) => Math.max(1, Math.abs(score)));
  const scaled = (values: readonly number[]) =>
    float32Tensor(
      values.map((score, i) => score / sizes[i]!),
      [values.length],
    );
  expectClose(`${name} scores`, scaled(scores), scaled(wanted), { within: 1e-5 });
};

describe.each(goldenNames("t5", "t5-"))("%s", async (name) => {
  const { golden, model, prompt, runs } = await load(name);
  let decoder: EncoderDecoder;
  beforeAll(async () => {
    decoder = await EncoderDecoder.compile(device, model, golden.weights);
  });

  it.each(runs.generate.map((run) => [JSON.stringify(run.options), run] as const))(
    "generates as transformers: %s",
    async (_, run) => {
      const settings = settingsOf(run, runs.generate_defaults.eos_token_id);
      const results = await generateTokens(decoder.begin(), prompt, settings);
      const starts = results.map(() => [0]);
      const fill = fillOf(run, runs.generate_defaults.eos_token_id);
      expect(asMatrix(starts, results, fill)).toEqual(rowsOf(golden.outputs[`${run.name}.ids`]!));
      const scores = results.flatMap((sequences) => sequences.map(({ score }) => score));
      expectScores(run.name, scores, golden.outputs[`${run.name}.scores`]);
    },
  );

  it("finds for each prompt of a batch what it finds for that prompt alone", async () => {
    const settings = {
      ...settingsOf(runs.generate[2]!, runs.generate_defaults.eos_token_id),
      minNewTokens: 3,
    };
    const together = await generateTokens(decoder.begin(), prompt, settings);
    for (const [b, expected] of together.entries()) {
      const real = rowsOf(prompt.mask)[b]!.filter(Boolean).length;
      const alone = (tensor: HostTensor) => sliceOf(takeRows(tensor, b, b + 1), 1, 0, real);
      const own = {
        ...idPrompt(alone(prompt.ids), alone(prompt.mask), model.embeddingSize),
        decoderStartId: 0,
      };
      const [found] = await generateTokens(decoder.begin(), own, settings);
      expect(found!.map(({ tokenIds }) => tokenIds)).toEqual(expected.map(({ tokenIds }) => tokenIds));
    }
  });
});

describe("an encoder-decoder", async () => {
  const { golden, model, prompt, runs } = await load("t5-1");
  const end = runs.generate_defaults.eos_token_id;
  const greedy = settingsOf(runs.generate[0]!, end);
  const beams = { ...greedy, numBeams: 4 };
  let decoder: EncoderDecoder;
  beforeAll(async () => {
    decoder = await EncoderDecoder.compile(device, model, golden.weights);
  });

  it("runs several generations at once without mixing them up", async () => {
    const find = (settings: typeof greedy) => generateTokens(decoder.begin(), prompt, settings);
    const apart = [await find(greedy), await find(beams)];
    expect(await Promise.all([find(greedy), find(beams)])).toEqual(apart);
  });

  it("keeps nothing in the worker, also after an abort and after the caller has left", async () => {
    // Slots are numbered by the generation; the one before is that of the run under test.
    const isFree = async () => {
      const next = decoder.begin() as unknown as Record<"seen" | "outputs", Readonly<Record<string, string>>>;
      for (const slots of [next.seen, next.outputs]) {
        const slot = Object.values(slots)[0]!.replace(/\d+/, (id) => String(Number(id) - 1));
        await expect(device.read([slot])).rejects.toThrow(/no resident tensor/);
      }
    };
    await generateTokens(decoder.begin(), prompt, greedy);
    await isFree();
    const controller = new AbortController();
    const stopped = (async () => {
      let steps = 0;
      for await (const _ of generationSteps(decoder.begin(), prompt, beams, controller.signal)) {
        if (++steps === 2) controller.abort();
      }
    })();
    await expect(stopped).rejects.toThrow(InterruptedError);
    await isFree();
    for await (const _ of generationSteps(decoder.begin(), prompt, greedy)) break;
    await isFree();
    const ids = golden.inputs["labels"]!;
    const target = {
      ids: int64Tensor([0, 5, 0, 6, 0, 7], [3, 2]),
      mask: int64Tensor([1, 1, 1, 1, 1, 1], [3, 2]),
    };
    expect((await decoder.forward(prompt, target)).dims).toEqual([ids.dims[0], 2, model.config.vocab_size]);
    await isFree();
  });

  it("needs to know where a text starts", async () => {
    const { decoderStartId: _, ...rest } = prompt;
    await expect(generateTokens(decoder.begin(), rest, greedy)).rejects.toThrow(InternalError);
  });
});

describe.each(goldenNames("t5", "blip2-t5"))("%s", async (name) => {
  const golden = await readGoldenCase<JsonObject>("t5", name);
  const { generate, generate_defaults: defaults } = goldenRuns(name, "t5");
  const config = blip2Config(golden.config);
  const queries = config.num_query_tokens;
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
      const start = config.text_config.bos_token_id!;
      const prompt: Prompt = {
        embeddings: await runner.softPrompts(pixels),
        ids: prompted
          ? sliceOf(ids, 1, queries, ids.dims[1]!)
          : int64Tensor(Array<number>(batch).fill(start), [batch, 1]),
        mask: prompted
          ? mask
          : int64Tensor(Array<number>(batch * (queries + 1)).fill(1), [batch, queries + 1]),
        softId: config.image_token_index!,
        decoderStartId: 0,
      };
      const settings = settingsOf(run, defaults.eos_token_id);
      const results = await generateTokens(runner.languageModel.begin(), prompt, settings);
      const starts = results.map(() => [0]);
      expect(asMatrix(starts, results, fillOf(run, defaults.eos_token_id))).toEqual(
        rowsOf(golden.outputs[`${run.name}.ids`]!),
      );
      const scores = results.flatMap((sequences) => sequences.map(({ score }) => score));
      expectScores(run.name, scores, golden.outputs[`${run.name}.scores`]);
    },
  );

  it("gives the numbers of a forward pass as transformers", async () => {
    await using model = await Blip2.load(join(root, name), { threads: 1 });
    const inputs = {
      pixelValues: pixels,
      inputIds: golden.inputs["input_ids"]!,
      attentionMask: golden.inputs["attention_mask"]!,
    };
    const labels = golden.inputs["labels"]!;
    const found = await model.forward({ ...inputs, labels });
    const pairs = {
      visionFeatures: "vision_last_hidden_state",
      queryOutput: "query_output",
      languageProjection: "language_projection",
      logits: "logits",
    } as const;
    for (const [ours, theirs] of Object.entries(pairs)) {
      const actual = found[ours as keyof typeof pairs];
      expectClose(`${name} ${ours}`, actual, golden.outputs[theirs], { within: 1e-4 });
    }
    expect(found.loss!.dims).toEqual([]);
    expect(Number(found.loss!.data[0])).toBeCloseTo(golden.scalars["loss"]!, 5);

    // The labels behind the start token, and padding where they are ignored.
    const rows = rowsOf(labels).map((row) => [0, ...row.slice(0, -1).map((id) => Math.max(0, id))]);
    const decoderInputIds = int64Tensor(rows.flat(), labels.dims);
    const explicit = await model.forward({ ...inputs, decoderInputIds });
    expect(explicit.logits).toEqual(found.logits);
    expect(explicit.loss).toBeUndefined();
    const first = int64Tensor(
      rows.flatMap((row) => row.map((_, t) => Number(t === 0))),
      labels.dims,
    );
    const masked = await model.forward({ ...inputs, decoderInputIds, decoderAttentionMask: first });
    expect(masked.logits).not.toEqual(found.logits);

    await expect(model.forward(inputs)).rejects.toThrow(/needs labels or decoderInputIds/);
    await expect(
      model.forward({ ...inputs, labels, decoderInputIds: int64Tensor([0], [1, 1]) }),
    ).rejects.toThrow(/must have dims/);
  });
});
