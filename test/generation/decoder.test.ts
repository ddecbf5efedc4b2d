import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { InternalError, InterruptedError } from "../../src/errors.js";
import { Decoder } from "../../src/generation/decoder.js";
import { generateTokens, generationSteps } from "../../src/generation/search/generate.js";
import type { SearchSettings } from "../../src/generation/search/search.js";
import type { Prompt, Stepper } from "../../src/generation/search/stepper.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { Opt, optConfigSchema } from "../../src/models/language/opt.js";
import { Parameters } from "../../src/nn/parameters.js";
import { expectClose, goldenNames, readGoldenCase } from "../golden-case.js";
import { rowsOf as takeRows, sliceOf, testDevice } from "../nn/evaluate.js";
import { asMatrix, goldenRuns, idPrompt, rowsOf, settingsOf, softPrompt } from "./golden.js";

const device = testDevice();
afterAll(() => device.close());

async function load(name: string) {
  const golden = await readGoldenCase("models", name);
  const model = new Opt(optConfigSchema.parse(golden.config), new Parameters(() => false).scope());
  const prompts: Record<string, Prompt> = {
    left: idPrompt(golden.inputs["left_ids"]!, golden.inputs["left_mask"]!, model.embeddingSize),
    single: idPrompt(golden.inputs["single_ids"]!, golden.inputs["single_mask"]!, model.embeddingSize),
    embeds: softPrompt(golden.inputs["embeds"]!, golden.inputs["embeds_mask"]!),
  };
  return { golden, model, prompts };
}

/** The same model without a cache: every step reads everything again. */
class UncachedStepper implements Stepper {
  private prompt!: Prompt;
  private origins: readonly number[] = [];
  private tokens: readonly (readonly number[])[] = [];

  constructor(private readonly decoder: Decoder) {}

  prefill(prompt: Prompt): Promise<readonly Float32Array[]> {
    const batch = prompt.ids.dims[0]!;
    this.prompt = prompt;
    this.origins = Array.from({ length: batch }, (_, b) => b);
    this.tokens = this.origins.map(() => []);
    return this.read();
  }

  advance(parents: readonly number[], tokens: readonly number[]): Promise<readonly Float32Array[]> {
    this.tokens = parents.map((parent, n) => [...this.tokens[parent]!, tokens[n]!]);
    this.origins = parents.map((parent) => this.origins[parent]!);
    return this.read();
  }

  private async read(): Promise<readonly Float32Array[]> {
    const rows: Float32Array[] = [];
    for (const [n, origin] of this.origins.entries()) {
      const { ids, mask, embeddings } = this.prompt;
      const more = this.tokens[n]!;
      const extend = (tensor: HostTensor, values: readonly number[]): HostTensor => {
        const row = [...rowsOf(tensor)[origin]!, ...values];
        return int64Tensor(row, [1, row.length]);
      };
      const soft =
        embeddings.dims[1] === 0
          ? { ...embeddings, dims: [1, 0, embeddings.dims[2]!] }
          : takeRows(embeddings, origin, origin + 1);
      const logits = await this.decoder.forward({
        embeddings: soft,
        ids: ids.dims[1] === 0 ? int64Tensor(more, [1, more.length]) : extend(ids, more),
        mask: extend(
          mask,
          more.map(() => 1),
        ),
      });
      const length = logits.dims[1]!;
      rows.push(sliceOf(logits, 1, length - 1, length).data as Float32Array);
    }
    return rows;
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

describe.each(goldenNames("models", "opt"))("%s", async (name) => {
  const { golden, model, prompts } = await load(name);
  const { generate, generate_defaults: defaults } = goldenRuns(name);
  let decoder: Decoder;
  beforeAll(async () => {
    decoder = await Decoder.compile(device, model, golden.weights);
  });

  it.each(["left", "single"])("gives the logits of every position, %s", async (run) => {
    const logits = await decoder.forward(prompts[run]!);
    expectClose(`${name} ${run}`, logits, golden.outputs[`${run}_logits`], {
      within: 1e-4,
      rows: prompts[run]!.mask,
    });
  });

  it.each(generate.map((run) => [`${run.prompt} ${JSON.stringify(run.options)}`, run] as const))(
    "generates as transformers: %s",
    async (_, run) => {
      const prompt = prompts[run.prompt]!;
      const results = await generateTokens(decoder.begin(), prompt, settingsOf(run, defaults.eos_token_id));
      const before = run.prompt === "embeds" ? results.map(() => []) : rowsOf(prompt.ids);
      expect(asMatrix(before, results, defaults.pad_token_id)).toEqual(
        rowsOf(golden.outputs[`${run.name}.ids`]!),
      );
      const scores = golden.outputs[`${run.name}.scores`];
      if (scores === undefined) return;
      const found = results.flatMap((sequences) => sequences.map(({ score }) => score));
      expectClose(`${run.name} scores`, float32Tensor(found, [found.length]), scores, { within: 1e-4 });
    },
  );
});

describe("generation with a cache", async () => {
  const { golden, model, prompts } = await load("opt-1");
  const { generate, generate_defaults: defaults } = goldenRuns("opt-1");
  const end = defaults.eos_token_id;
  let decoder: Decoder;
  beforeAll(async () => {
    decoder = await Decoder.compile(device, model, golden.weights);
  });
  const greedy: SearchSettings = settingsOf(generate[0]!, end);
  const beams: SearchSettings = { ...greedy, numBeams: 4, numReturnSequences: 2 };

  it.each([
    ["greedy search", "left", greedy],
    ["beam search", "left", beams],
    ["beam search from embeddings", "embeds", beams],
  ] as const)("finds what it finds without one: %s", async (_, prompt, settings) => {
    const cached = await generateTokens(decoder.begin(), prompts[prompt]!, settings);
    const uncached = await generateTokens(new UncachedStepper(decoder), prompts[prompt]!, settings);
    expect(cached.flat().map(({ tokenIds }) => tokenIds)).toEqual(
      uncached.flat().map(({ tokenIds }) => tokenIds),
    );
    for (const [i, { score, logProbability }] of cached.flat().entries()) {
      expect(score).toBeCloseTo(uncached.flat()[i]!.score, 4);
      expect(logProbability).toBeCloseTo(uncached.flat()[i]!.logProbability, 4);
    }
  });

  it.each([greedy, beams, { ...beams, minNewTokens: 3 }])(
    "finds for each prompt of a batch what it finds for that prompt alone",
    async (settings) => {
      const { ids, mask } = prompts["left"]!;
      const together = await generateTokens(decoder.begin(), prompts["left"]!, settings);
      for (const [b, expected] of together.entries()) {
        const real = rowsOf(mask)[b]!.filter(Boolean).length;
        const total = ids.dims[1]!;
        const alone = (tensor: HostTensor) => sliceOf(takeRows(tensor, b, b + 1), 1, total - real, total);
        const prompt = idPrompt(alone(ids), alone(mask), model.embeddingSize);
        const [found] = await generateTokens(decoder.begin(), prompt, settings);
        expect(found!.map(({ tokenIds }) => tokenIds)).toEqual(expected.map(({ tokenIds }) => tokenIds));
      }
    },
  );

  it("runs several generations at once without mixing them up", async () => {
    const runs = [
      ["left", greedy],
      ["left", beams],
      ["embeds", beams],
      ["single", greedy],
    ] as const;
    const find = ([prompt, settings]: (typeof runs)[number]) =>
      generateTokens(decoder.begin(), prompts[prompt]!, settings);
    const apart = [];
    for (const run of runs) apart.push(await find(run));
    expect(await Promise.all(runs.map(find))).toEqual(apart);
  });

  it("keeps nothing in the worker, also after an abort and after the caller has left", async () => {
    // Slots are numbered by the generation; the one before is that of the run under test.
    const isFree = async () => {
      const { outputs } = decoder.begin() as unknown as { outputs: Readonly<Record<string, string>> };
      const slot = Object.values(outputs)[0]!.replace(/\d+/, (id) => String(Number(id) - 1));
      await expect(device.read([slot])).rejects.toThrow(/no resident tensor/);
    };
    await generateTokens(decoder.begin(), prompts["left"]!, greedy);
    await isFree();

    const controller = new AbortController();
    const stopped = (async () => {
      let steps = 0;
      for await (const _ of generationSteps(decoder.begin(), prompts["left"]!, beams, controller.signal)) {
        if (++steps === 2) controller.abort();
      }
    })();
    await expect(stopped).rejects.toThrow(InterruptedError);
    await isFree();

    for await (const _ of generationSteps(decoder.begin(), prompts["left"]!, greedy)) break;
    await isFree();

    const unknownId = idPrompt(int64Tensor([1e6], [1, 1]), int64Tensor([1], [1, 1]), model.embeddingSize);
    await expect(generateTokens(decoder.begin(), unknownId, greedy)).rejects.toThrow(InternalError);
    await isFree();
  });

  it("stops before it starts when it was aborted before", async () => {
    const run = generateTokens(decoder.begin(), prompts["left"]!, greedy, AbortSignal.abort());
    await expect(run).rejects.toThrow(InterruptedError);
  });
});
