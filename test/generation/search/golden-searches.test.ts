/** Searches with all their processors over the golden OPT models, against transformers. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Decoder } from "../../../src/generation/decoder.js";
import { generateTokens } from "../../../src/generation/search/generate.js";
import type { SearchSettings } from "../../../src/generation/search/search.js";
import { float32Tensor } from "../../../src/host-tensor.js";
import { Opt, optConfigSchema } from "../../../src/models/language/opt.js";
import { Parameters } from "../../../src/nn/parameters.js";
import { expectClose, readGoldenCase } from "../../golden-case.js";
import { testDevice } from "../../nn/evaluate.js";
import { goldenRuns, idPrompt, softPrompt } from "../golden.js";
import { goldenGeneration, type GoldenOptions, type GoldenSearches } from "../golden-generation.js";

const device = testDevice();
afterAll(() => device.close());
const { info, tensors } = await goldenGeneration<GoldenSearches>("searches");

function settingsOf(options: GoldenOptions, endId: number): SearchSettings {
  return {
    maxNewTokens: options.max_new_tokens!,
    minNewTokens: options.min_new_tokens ?? 0,
    numBeams: options.num_beams ?? 1,
    numReturnSequences: options.num_return_sequences ?? 1,
    lengthPenalty: options.length_penalty ?? 1,
    earlyStopping: options.early_stopping ?? false,
    repetitionPenalty: options.repetition_penalty ?? 1,
    noRepeatNgramSize: options.no_repeat_ngram_size,
    forbidden: options.bad_words_ids,
    endIds: [endId],
    ...(options.penalty_alpha !== undefined && {
      contrastive: { penaltyAlpha: options.penalty_alpha, topK: options.top_k! },
    }),
  };
}

describe.each([...new Set(info.runs.map(({ model }) => model))])("%s", async (name) => {
  const golden = await readGoldenCase("models", name);
  const model = new Opt(optConfigSchema.parse(golden.config), new Parameters(() => false).scope());
  const endId = goldenRuns(name).generate_defaults.eos_token_id;
  const prompts = {
    left: idPrompt(golden.inputs["left_ids"]!, golden.inputs["left_mask"]!, model.embeddingSize),
    embeds: softPrompt(golden.inputs["embeds"]!, golden.inputs["embeds_mask"]!),
  };
  let decoder: Decoder;
  beforeAll(async () => {
    decoder = await Decoder.compile(device, model, golden.weights);
  });

  const runs = info.runs.filter((run) => run.model === name);
  it.each(runs.map((run) => [`${run.prompt} ${JSON.stringify(run.options)}`, run] as const))(
    "%s",
    async (_, run) => {
      const settings = settingsOf(run.options, endId);
      const stepper = decoder.begin({ states: settings.contrastive !== undefined });
      const found = (await generateTokens(stepper, prompts[run.prompt], settings)).flat();
      expect(found.map(({ tokenIds }) => tokenIds)).toEqual(run.ids);
      const own = found.flatMap(({ tokenLogProbabilities }) => tokenLogProbabilities);
      const expected = tensors.get(`outputs/${run.name}.token_log_probabilities`);
      expectClose("log-probabilities", float32Tensor(own, [own.length]), expected, { within: 1e-4 });
      for (const { logProbability, tokenLogProbabilities } of found) {
        expect(logProbability).toBeCloseTo(
          tokenLogProbabilities.reduce((sum, value) => sum + value, 0),
          5,
        );
      }
      const scores = tensors.get(`outputs/${run.name}.scores`);
      if (scores === undefined) return;
      const ranked = found.map(({ score }) => score);
      expectClose("scores", float32Tensor(ranked, [ranked.length]), scores, { within: 1e-4 });
    },
  );
});
