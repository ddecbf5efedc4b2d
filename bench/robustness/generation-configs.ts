/** generation_config.json as published models have it, and changed. */
import { parseGenerationConfig } from "../../src/generation/generation-config.js";
import { parseJson } from "../../src/json.js";
import { changed, changedJson } from "./changes.js";
import type { Kind } from "./trial.js";

const base = {
  _from_model_config: true,
  bos_token_id: 2,
  eos_token_id: [2, 50118],
  pad_token_id: 1,
  num_beams: 5,
  max_new_tokens: 30,
  min_new_tokens: 1,
  length_penalty: 1,
  repetition_penalty: 1.5,
  do_sample: false,
  temperature: 1,
  top_p: 0.9,
  transformers_version: "4.31.0",
};

/** Each loads in Python and means nothing that would change the text, or something that there is here too. */
const harmless: readonly Record<string, unknown>[] = [
  { max_length: 50 },
  { min_length: 8 },
  { forced_eos_token_id: 2 },
  { forced_bos_token_id: 2 },
  { temperature: 0 },
  { pad_token_id: -1 },
  { an_unknown_key: { of: ["any", "kind"] } },
  { num_beam_groups: 1, diversity_penalty: 0 },
  { use_cache: true, output_attentions: false, return_dict_in_generate: false },
  { suppress_tokens: null, begin_suppress_tokens: null, bad_words_ids: null },
  { early_stopping: "never" },
  { early_stopping: true },
  { typical_p: 1, epsilon_cutoff: 0, eta_cutoff: 0 },
  { eos_token_id: 2 },
  { top_k: 0, top_p: 1 },
];

export const generationConfigs: Kind = {
  name: "generation-configs",
  title: "`generation_config.json`",
  rule:
    "A published one with combinations of 15 additions that change nothing in Python (all have to be read), with values replaced, removed or added, or changed in some bytes. " +
    "Right: read, with the beams and lengths that it names. Accepted: a changed one that still means something.",
  count: 1000,
  quick: 60,
  limit: 10_000,
  prepare: () =>
    Promise.resolve((random, index) => {
      const where = "generation_config.json";
      if (index % 4 === 0) {
        const json = random
          .shuffle(harmless)
          .slice(0, random.between(0, 4))
          .reduce((all, more) => ({ ...all, ...more }), base);
        return {
          form: "harmless additions",
          must: "read",
          run: async () => {
            const { num_beams: beams, max_new_tokens: most } = parseGenerationConfig(
              json,
              where,
              () => undefined,
            );
            return beams === 5 && most === 30 ? undefined : `${beams} beams, ${most} tokens`;
          },
        };
      }
      if (index % 4 === 1) {
        const { what, bytes } = changed(Buffer.from(JSON.stringify(base)), random);
        return {
          form: what,
          must: "either",
          run: async () =>
            void parseGenerationConfig(parseJson(bytes.toString(), where), where, () => undefined),
        };
      }
      let [json, form]: [unknown, string] = [base, ""];
      for (let i = random.between(1, 3); i > 0; i--) ({ json, what: form } = changedJson(json, random));
      return {
        form,
        must: "either",
        run: async () => {
          const { num_beams: beams } = parseGenerationConfig(json, where, () => undefined);
          const isNone = beams === undefined || beams === null;
          return isNone || (Number.isInteger(beams) && beams > 0) ? undefined : `${beams} beams`;
        },
      };
    }),
};
