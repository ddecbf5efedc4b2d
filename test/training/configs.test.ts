/** The configurations that come with the repository. */
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import type { z } from "zod";
import { readConfig } from "../../src/training/config-file.js";
import { languageModelConfigSchema } from "../../src/recipes/scenes-parts/opt.js";
import { stage1ConfigSchema } from "../../src/recipes/stage-1.js";
import { stage2ConfigSchema } from "../../src/recipes/stage-2/config.js";
import { t5LanguageModelConfigSchema } from "../../src/recipes/scenes-parts/t5.js";
import { visionConfigSchema } from "../../src/recipes/scenes-parts/vision.js";

it.each<[string, z.ZodType<{ data: string; steps: number }>]>([
  ["language-model", languageModelConfigSchema],
  ["language-model-questions", languageModelConfigSchema],
  ["language-model-rare", languageModelConfigSchema],
  ["language-model-statements", languageModelConfigSchema],
  ["t5", t5LanguageModelConfigSchema],
  ["t5-questions", t5LanguageModelConfigSchema],
  ["t5-echo", t5LanguageModelConfigSchema],
  ["t5-captions", t5LanguageModelConfigSchema],
  ["t5-condensed", t5LanguageModelConfigSchema],
  ["t5-condensed-longer", t5LanguageModelConfigSchema],
  ["vision", visionConfigSchema],
  ["vision-longer", visionConfigSchema],
  ["stage1", stage1ConfigSchema],
  ["stage2", stage2ConfigSchema],
  ["stage2-longer", stage2ConfigSchema],
  ["stage2-statements", stage2ConfigSchema],
  ["stage2-captions", stage2ConfigSchema],
  ["stage2-more", stage2ConfigSchema],
  ["stage2-t5", stage2ConfigSchema],
  ["stage2-t5-longer", stage2ConfigSchema],
  ["stage2-t5-condensed", stage2ConfigSchema],
  ["stage2-t5-condensed-longer", stage2ConfigSchema],
  ["stage2-t5-condensed-last", stage2ConfigSchema],
])("configs/scenes/%s.json is one of its stage", async (name, schema) => {
  const config = await readConfig(
    fileURLToPath(new URL(`../../configs/scenes/${name}.json`, import.meta.url)),
    schema,
  );
  expect(["../../runs/scenes", "../../runs/scenes-more"]).toContain(config.data);
});
