/** What a generation_config.json may ask of beginnings and ends, over the golden OPT models, against transformers. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Decoder } from "../../src/generation/decoder.js";
import { generationDefaults } from "../../src/generation/generation-defaults.js";
import { searchSettings } from "../../src/generation/options.js";
import { generateTokens } from "../../src/generation/search/generate.js";
import { Opt, optConfigSchema } from "../../src/models/language/opt.js";
import { Parameters } from "../../src/nn/parameters.js";
import { readGoldenCase } from "../golden-case.js";
import { testDevice } from "../nn/evaluate.js";
import { idPrompt, softPrompt } from "./golden.js";

interface Run {
  readonly model: string;
  readonly prompt: "left" | "embeds";
  readonly end: number;
  /** As generation_config.json has them. */
  readonly options: Readonly<Record<string, unknown>>;
  readonly ids: readonly (readonly number[])[];
}

const device = testDevice();
afterAll(() => device.close());
const runs = JSON.parse(readFileSync("test/golden/generation/ends.json", "utf8")) as readonly Run[];

describe.each([...new Set(runs.map(({ model }) => model))])("%s", async (name) => {
  const golden = await readGoldenCase("models", name);
  const config = optConfigSchema.parse(golden.config);
  const model = new Opt(config, new Parameters(() => false).scope());
  const prompts = {
    left: idPrompt(golden.inputs["left_ids"]!, golden.inputs["left_mask"]!, model.embeddingSize),
    embeds: softPrompt(golden.inputs["embeds"]!, golden.inputs["embeds_mask"]!),
  };
  let decoder: Decoder;
  beforeAll(async () => {
    decoder = await Decoder.compile(device, model, golden.weights);
  });

  it.each(
    runs
      .filter((run) => run.model === name)
      .map((run) => [`${run.prompt} ${JSON.stringify(run.options)}`, run] as const),
  )("%s", async (_, { options, end, prompt, ids }) => {
    const settings = searchSettings(
      "generate",
      {},
      generationDefaults({ ...options, eos_token_id: end }, config),
    );
    const found = await generateTokens(decoder.begin(), prompts[prompt], settings);
    expect(found.map(([best]) => best!.tokenIds)).toEqual(ids);
  });
});
