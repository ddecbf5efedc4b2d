import { describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import { generationDefaults } from "../../src/generation/generation-defaults.js";
import { searchSettings, type GenerateSettings } from "../../src/generation/options.js";

const ids = {
  model_type: "opt",
  vocab_size: 50272,
  bos_token_id: 2,
  eos_token_id: 5,
  pad_token_id: 1,
} as const;
const settingsOf = (json: object, asked: GenerateSettings = {}) =>
  searchSettings("generate", asked, generationDefaults(json, ids));

describe("generation_config.json", () => {
  it("asks for nothing but ids in published BLIP-2 folders, and means LAVIS's captions then", () => {
    const published = {
      _from_model_config: true,
      bos_token_id: 2,
      eos_token_id: 50118,
      pad_token_id: 1,
      transformers_version: "4.31.0",
    };
    expect(settingsOf(published)).toEqual({
      maxNewTokens: 30,
      minNewTokens: 0,
      numBeams: 5,
      numReturnSequences: 1,
      lengthPenalty: 1,
      earlyStopping: false,
      repetitionPenalty: 1,
      noRepeatNgramSize: 0,
      forbidden: [],
      endIds: [50118],
    });
  });

  it("is honoured in every key that changes a text", () => {
    const sampled = settingsOf({
      do_sample: true,
      temperature: 0.5,
      top_k: 7,
      top_p: 0.9,
      num_return_sequences: 3,
      no_repeat_ngram_size: 2,
      bad_words_ids: [[7, 8], [5]],
    });
    expect(sampled).toMatchObject({
      numBeams: 1,
      numReturnSequences: 3,
      noRepeatNgramSize: 2,
      forbidden: [[7, 8]],
      sampling: { temperature: 0.5, topK: 7, topP: 0.9, seed: 0 },
    });
    expect(settingsOf({ do_sample: true, num_beams: 4 })).toMatchObject({
      numBeams: 4,
      sampling: { topK: 50 },
    });
    expect(settingsOf({ penalty_alpha: 0.6, top_k: 6 })).toMatchObject({
      numBeams: 1,
      contrastive: { penaltyAlpha: 0.6, topK: 6 },
    });
    expect(generationDefaults({ stop_strings: "###" }, ids).stops).toEqual(["###"]);
    const asking = { question_format: "Question: {}", answer_after: "Short answer:" };
    expect(generationDefaults(asking, ids)).toMatchObject({
      questionFormat: "Question: {}",
      answerAfter: "Short answer:",
    });
    expect(generationDefaults({}, { ...ids, model_type: "t5" })).toMatchObject({
      questionFormat: "Question: {} Short answer:",
      answerAfter: undefined,
    });
  });

  it("keeps what is only for sampling until there is sampling", () => {
    const json = { temperature: 0.5, top_p: 0.9 };
    expect(settingsOf(json).sampling).toBeUndefined();
    expect(settingsOf(json, { sample: true }).sampling).toEqual({
      temperature: 0.5,
      topK: 50,
      topP: 0.9,
      seed: 0,
    });
  });

  it("passes over neutral values and what does not change the text", () => {
    const json = {
      typical_p: 1,
      max_length: 20,
      diversity_penalty: 0,
      use_cache: true,
      suppress_tokens: null,
    };
    expect(settingsOf(json)).toEqual(settingsOf({}));
  });

  it.each([
    [{ num_beam_groups: 2, diversity_penalty: 0.5 }, "num_beam_groups 2, diversity_penalty 0.5"],
    [{ max_time: Infinity, constructor: 3 }, "max_time Infinity, constructor 3"],
    [{ min_p: 0.1 }, "min_p 0.1"],
    [{ a_key_of_tomorrow: { deep: 1 } }, 'a_key_of_tomorrow {"deep":1}'],
  ])("passes over %j with a notice, and writes as without it", (json, words) => {
    const notices: string[] = [];
    const where = "folder/generation_config.json";
    const found = generationDefaults(json, ids, where, (notice) => notices.push(notice));
    expect(found).toEqual(generationDefaults({}, ids));
    expect(notices).toEqual([`${where}: passed over, as nothing here does it: ${words}`]);
  });

  it.each([
    [{ temperature: 0 }, {}],
    [{ temperature: -1, top_p: 0, do_sample: false }, {}],
    [{ pad_token_id: -1 }, {}],
    [{ eos_token_id: [5, -1] }, {}],
    [{ eos_token_id: null, max_length: null, min_length: 0 }, {}],
    [{ suppress_tokens: [], begin_suppress_tokens: null }, {}],
  ])("takes %j, of which nothing follows", (json, same) => {
    const notices: string[] = [];
    const found = generationDefaults(json, ids, "x", (notice) => notices.push(notice));
    expect(found).toEqual(generationDefaults(same, ids));
    expect(notices).toEqual([]);
  });

  it("counts what stands before the text where the file counts it", () => {
    const lengths = (json: object, before: number, asked: GenerateSettings = {}) => {
      const { maxNewTokens, minNewTokens } = searchSettings(
        "generate",
        asked,
        generationDefaults(json, ids),
        before,
      );
      return [maxNewTokens, minNewTokens];
    };
    expect(lengths({ max_length: 50 }, 35)).toEqual([15, 0]);
    expect(() => lengths({ max_length: 50 }, 60)).toThrow(
      /max_length of the model's generation_config.json is 50, and 60 positions .*; give maxNewTokens/,
    );
    expect(lengths({ max_length: 50 }, 60, { maxNewTokens: 7 })).toEqual([7, 0]);
    expect(lengths({ max_length: 50, max_new_tokens: 7 }, 35)).toEqual([7, 0]);
    expect(lengths({ max_length: 20 }, 35)).toEqual([30, 0]);
    expect(lengths({ min_length: 40 }, 35)).toEqual([30, 5]);
    expect(lengths({ min_length: 40, min_new_tokens: 2 }, 35)).toEqual([30, 2]);
    expect(lengths({ min_length: 40 }, 35, { maxNewTokens: 3 })).toEqual([3, 3]);
    expect(lengths({ max_length: 50, min_length: 40 }, 35, { maxNewTokens: 9, minNewTokens: 1 })).toEqual([
      9, 1,
    ]);
  });

  it("takes several ends of a text from the language model's config too", () => {
    expect(generationDefaults({}, { ...ids, eos_token_id: [5, 7] }).endIds).toEqual([5, 7]);
  });

  it.each([
    [{ num_beams: 1e6 }, "num_beams is 1000000"],
    [{ eos_token_id: 60000 }, "eos_token_id is 60000, the model's vocabulary has 50272"],
    [{ do_sample: true, temperature: 0 }, "do_sample is true and temperature is 0"],
    [{ do_sample: true, top_p: 1.5 }, "top_p is 1.5"],
    [{ do_sample: "yes" }, 'do_sample is "yes"'],
    [{ max_new_tokens: 0 }, "max_new_tokens is 0"],
  ])("refuses %j by name", (json, message) => {
    expect(() => generationDefaults(json, ids, "folder/generation_config.json")).toThrow(UserError);
    expect(() => generationDefaults(json, ids, "folder/generation_config.json")).toThrow(message);
    expect(() => generationDefaults(json, ids, "folder/generation_config.json")).toThrow(/^folder\//);
  });
});

describe("the settings of a call", () => {
  it("outweigh the model's", () => {
    const json = { do_sample: true, num_return_sequences: 2, num_beams: 4, min_new_tokens: 9 };
    expect(settingsOf(json, { sample: false }).sampling).toBeUndefined();
    expect(settingsOf(json, { sample: true }).numBeams).toBe(1);
    expect(settingsOf(json, { maxNewTokens: 3 }).minNewTokens).toBe(3);
    expect(settingsOf(json, { penaltyAlpha: 0.6 })).toMatchObject({
      numBeams: 1,
      numReturnSequences: 1,
      contrastive: { penaltyAlpha: 0.6, topK: 4 },
    });
    const contrastive = { penalty_alpha: 0.6 };
    for (const asked of [{ sample: true }, { numBeams: 3 }]) {
      expect(settingsOf(contrastive, asked).contrastive).toBeUndefined();
    }
    // With the one sequence of greedy search two cannot be returned; the file's wish gives way.
    expect(settingsOf({ num_return_sequences: 2 }, { numBeams: 1 }).numReturnSequences).toBe(1);
  });

  it.each<[GenerateSettings, string | RegExp]>([
    [{ temperature: 0.7 }, "temperature is an option of sampling; it needs sample: true"],
    [{ topP: 0.7, seed: 3 }, /topP is an option .*; seed is an option/],
    [{ topK: 7 }, "topK is an option of sampling"],
    [{ numBeams: 1, numReturnSequences: 2 }, /numReturnSequences is 2: greedy search finds one text/],
    [{ numBeams: 3, numReturnSequences: 4 }, "numReturnSequences is 4, more than numBeams, which is 3"],
    [{ penaltyAlpha: 0.5, numReturnSequences: 2 }, /contrastive search finds one text/],
    [{ penaltyAlpha: 0.5, numBeams: 2 }, "which has no beams; numBeams is 2"],
    [{ penaltyAlpha: 0.5, sample: true }, "which draws no tokens"],
    [{ penaltyAlpha: 0.5, topK: 1 }, "needs a topK of at least 2, got 1"],
    [{ minNewTokens: 4, maxNewTokens: 3 }, "minNewTokens is 4, more than maxNewTokens, which is 3"],
  ])("are refused where they contradict each other: %j", (asked, message) => {
    expect(() => settingsOf({}, asked)).toThrow(UserError);
    expect(() => settingsOf({}, asked)).toThrow(message);
  });
});
