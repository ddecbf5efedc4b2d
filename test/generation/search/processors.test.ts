/** The processors, against transformers' on random scores. */
import { describe, expect, it } from "vitest";
import { logSoftmax } from "../../../src/generation/search/logits.js";
import { processorsOf } from "../../../src/generation/search/processors.js";
import { goldenGeneration, type GoldenProcessors } from "../golden-generation.js";
import { usual } from "../fake-stepper.js";
import { rowsOf } from "../golden.js";

const { info, tensors } = await goldenGeneration<GoldenProcessors>("processors");
const ids = rowsOf(tensors.get("inputs/ids")!);
const scores = rowsOf(tensors.get("inputs/scores")!);

describe("processors", () => {
  it.each(info.runs.map((run) => [`${JSON.stringify(run.options)} keeping ${run.keep}`, run] as const))(
    "change scores as transformers: %s",
    (_, { name, options, keep }) => {
      const isSampling = ["temperature", "top_k", "top_p"].some((key) => key in options);
      const processors = processorsOf({
        ...usual,
        endIds: [info.eos_token_id],
        // Beams keep one id more than there are ends; a golden run that keeps more counts further ends.
        ...(keep > 1 && {
          numBeams: 2,
          endIds: Array.from({ length: keep - 1 }, (_unused, n) => info.eos_token_id + n),
        }),
        repetitionPenalty: options.repetition_penalty ?? 1,
        noRepeatNgramSize: options.no_repeat_ngram_size,
        forbidden: options.bad_words_ids,
        minNewTokens: options.min_new_tokens ?? 0,
        ...(isSampling && {
          sampling: {
            temperature: options.temperature ?? 1,
            topK: options.top_k ?? 0,
            topP: options.top_p ?? 1,
            seed: 0,
          },
        }),
      });
      const expected = rowsOf(tensors.get(`outputs/${name}`)!);
      for (const [row, start] of scores.entries()) {
        const found = Float32Array.from(start);
        const sequence = {
          promptIds: ids[row]!.slice(0, info.prompt_length),
          newIds: ids[row]!.slice(info.prompt_length),
        };
        for (const process of processors) process(found, sequence);
        const impossible = (values: ArrayLike<number>) =>
          Array.from(values, (value, id) => (value < -1e29 ? id : -1)).filter((id) => id >= 0);
        expect(impossible(found), `row ${row}`).toEqual(impossible(expected[row]!));
        const probabilities = (values: ArrayLike<number>) =>
          logSoftmax(Float32Array.from(values)).map(Math.exp);
        const reference = probabilities(expected[row]!);
        for (const [id, probability] of probabilities(found).entries()) {
          expect(Math.abs(probability - reference[id]!)).toBeLessThan(1e-6);
        }
      }
    },
  );
});
