/** Stage 2 as a recipe: what it reads, and the folder that it writes. */
import { readModelFolder, writeModelFolder } from "../../checkpoints/model-folder.js";
import type { LazyTensor } from "../../checkpoints/tensor-file.js";
import { lazyTensors } from "../../checkpoints/tensor-views.js";
import type { HostTensor } from "../../host-tensor.js";
import { openFrozenLanguageModel } from "../../loading/frozen-language-model.js";
import { openFrozenVision } from "../../loading/frozen-vision.js";
import { readTokenizerFiles } from "../../text/tokenizer-files.js";
import { loadTokenizer } from "../../text/tokenizer.js";
import { bytesDigest, modelDigest } from "../model-digest.js";
import { encoderDigest, openPictures, openSplitFeatures } from "../picture-data.js";
import { defineRecipe } from "../recipe.js";
import { checkStage2Config, stage2ConfigSchema, type Stage2Config } from "./config.js";
import { bridgeSizes, stage2Task } from "./task.js";
import { languageModelFiles } from "./written-files.js";

export const stage2 = defineRecipe<Stage2Config>({
  name: "stage2",
  schema: stage2ConfigSchema,
  places: { data: "data", features: "made", stage1: "model", languageModel: "model", start: "data" },

  async prepare(config, hooks) {
    const pictures = await openPictures(config, hooks, { statements: config.statements.share > 0 });
    const loading = { onNotice: hooks.log, signal: hooks.signal };
    const stage1 = await readModelFolder(config.stage1);
    const { qformer, queries } = bridgeSizes(stage1);
    const vision = openFrozenVision(stage1, loading);
    const languageModel = await openFrozenLanguageModel(await readModelFolder(config.languageModel), loading);
    const tokenizer = await loadTokenizer(languageModel.path);
    checkStage2Config(config, languageModel, tokenizer);
    const tokenizerFiles = await readTokenizerFiles(languageModel.path);
    const written = languageModelFiles(languageModel, tokenizer);
    return {
      data: {
        ...pictures.digests,
        // The bridge in stage1 is where a run begins: one that is resumed has its own.
        "the image encoder in stage1": await encoderDigest(vision),
        "the model in languageModel": await modelDigest(
          [languageModel.config, bytesDigest(tokenizerFiles)],
          languageModel.file,
        ),
      },
      async task(device) {
        const features = await openSplitFeatures(device, config, vision, pictures, hooks);
        try {
          const setup = { device, config, stage1, vision, languageModel, tokenizer, ...features };
          return { ...(await stage2Task(setup)), close: () => features.close() };
        } catch (error) {
          await features.close();
          throw error;
        }
      },
      write: (model, weights) =>
        writeModelFolder(model, {
          config: {
            architectures: ["Blip2ForConditionalGeneration"],
            model_type: "blip-2",
            vision_config: vision.config,
            qformer_config: qformer,
            num_query_tokens: queries,
            ...written.config,
            dtype: "float16",
          },
          tensors: new Map<string, HostTensor | LazyTensor>([
            ...lazyTensors(vision.file),
            ...lazyTensors(languageModel.file, languageModel.names),
            ...weights,
          ]),
          dtype: "float16",
          files: {
            ...tokenizerFiles,
            "preprocessor_config.json": vision.folder.preprocessor ?? {},
            "processor_config.json": { processor_class: "Blip2Processor", num_query_tokens: queries },
            "generation_config.json": {
              ...written.generationConfig,
              max_new_tokens: config.maxTextLength,
              ...config.generation,
            },
          },
        }),
    };
  },
});
