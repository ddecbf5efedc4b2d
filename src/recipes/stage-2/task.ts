/**
 * Stage 2: the bridge of stage 1 learns to prompt a frozen language model, decoder-only or encoder-decoder (paper section 3.3).
 * Training data are cached features and captions; the result is a folder in the layout of
 * `Blip2ForConditionalGeneration`.
 */
import { checkTensors, type ModelFolder } from "../../checkpoints/model-folder.js";
import { sliceOf } from "../../data/dataset.js";
import { ShuffledPasses } from "../../data/shuffle.js";
import { input, type Device, type HostTensors } from "../../engine/index.js";
import { UserError } from "../../errors.js";
import { toFloat32 } from "../../float16.js";
import type { HostTensor } from "../../host-tensor.js";
import { wordSpread, type FrozenLanguageModel } from "../../loading/frozen-language-model.js";
import type { FrozenVision } from "../../loading/frozen-vision.js";
import { SecondStage } from "../../models/blip-2-bridge.js";
import { qFormerConfigSchema, type QFormerConfig } from "../../models/q-former.js";
import { bridgeNormEpsilon } from "../../models/vision/vision-encoder.js";
import { Dropout } from "../../nn/dropout.js";
import { initialise } from "../../nn/initialise.js";
import { normal, Parameters } from "../../nn/parameters.js";
import { Random } from "../../random.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import type { FeatureSet } from "../../training/image-features.js";
import { storedPictures } from "../../training/picture-side.js";
import { startWeights } from "../../training/start-weights.js";
import { stepSeed } from "../../training/step-seed.js";
import { weightSlots, type Task } from "../../training/trainer.js";
import type { Stage2Config } from "./config.js";
import { decoderText } from "./decoder-text.js";
import { encoderDecoderText } from "./encoder-decoder-text.js";
import type { GivenTexts } from "./text-side.js";

/** What stage 2 takes over from stage 1: sizes. */
export interface BridgeSizes {
  readonly qformer: QFormerConfig;
  readonly queries: number;
}

/** Throws a `UserError` if the folder is none of stage 1's. */
export function bridgeSizes({ path, config }: ModelFolder): BridgeSizes {
  const queries = config["num_query_tokens"];
  const parsed = qFormerConfigSchema.safeParse({
    ...(config["qformer_config"] as object | undefined),
    use_qformer_text_input: false,
    vocab_size: 30522,
  });
  if (config["qformer_config"] === undefined || !parsed.success || !Number.isInteger(queries)) {
    throw new UserError(
      `${path}/config.json: qformer_config and num_query_tokens of a BLIP-2 are required; give the folder that stage 1 wrote`,
    );
  }
  const { hidden_size: width, num_attention_heads: heads } = parsed.data;
  if (width % heads !== 0) {
    throw new UserError(
      `${path}/config.json: qformer_config.hidden_size ${width} is not a multiple of num_attention_heads ${heads}`,
    );
  }
  return { qformer: parsed.data, queries: queries as number };
}

export interface Stage2Setup {
  readonly device: Device;
  readonly config: Stage2Config;
  readonly stage1: ModelFolder;
  readonly vision: Pick<FrozenVision, "config">;
  readonly languageModel: FrozenLanguageModel;
  readonly tokenizer: TextTokenizer;
  readonly train: FeatureSet;
  readonly validation: FeatureSet;
}

/** What is trained in stage 2: everything but the language model (the image encoder is not in the graph). */
const isTrained = (name: string): boolean => !name.startsWith("language_model.");

const watchedPictures = 500;
const watchedAtOnce = 50;

export async function stage2Task(setup: Stage2Setup): Promise<Task> {
  const { device, config, stage1, vision, languageModel, tokenizer, train, validation } = setup;
  const { qformer, queries } = bridgeSizes(stage1);
  const parameters = new Parameters(isTrained);
  const model = languageModel.build(parameters);
  const ids = languageModel.family.textIds(languageModel.config, tokenizer, languageModel.path);
  const texts =
    model.kind === "decoder-only"
      ? decoderText(model, ids, tokenizer, config, queries)
      : encoderDecoderText(model, ids, tokenizer, config);
  const { matchWordScale, start: startScale, limit } = config.softPrompt;
  const wordScale = await wordSpread(languageModel);
  const spread = (startScale * wordScale) / Math.sqrt(qformer.hidden_size);
  const bridge = new SecondStage(
    {
      qformer,
      visionNormEpsilon: bridgeNormEpsilon(vision.config),
      queryCount: queries,
      languageSize: model.embeddingSize,
      ...(matchWordScale && { projectionInit: { weightInit: normal(spread) } }),
    },
    parameters.scope(),
  );
  const size = config.batchSize / config.accumulate;
  const pictures = storedPictures(train);
  const watched = storedPictures(validation);
  const seed = input("seed", "uint64", []);
  const usesDropout =
    qformer.hidden_dropout_prob > 0 || qformer.attention_probs_dropout_prob > 0 || model.hasDropout;
  const loss = texts.loss(
    bridge,
    pictures.features(size),
    size,
    usesDropout ? new Dropout(seed) : undefined,
    limit && limit * wordScale,
  );
  const watchedLoss = texts.loss(bridge, watched.features("B"), "B");
  const passes = new ShuffledPasses(train.pictures.length, config.seed);
  const { share, perRow } = config.statements;
  const given = async (place: number, random: Random): Promise<GivenTexts> => {
    const { captions, statements = [] } = await train.pictures.at(place);
    return share > 0 && random.chance(share)
      ? { statements: random.shuffle(statements).slice(0, perRow) }
      : { caption: random.pick(captions), random };
  };
  const weights = await languageModel.weights();
  return {
    parameters,
    weights,
    start:
      config.start === undefined
        ? await startOf(stage1, parameters, config)
        : await startWeights(parameters, config.seed, config.start),
    loss,
    metrics: {},
    batch: async (step, part): Promise<HostTensors> => {
      const chosen = Array.from({ length: size }, (_, i) => {
        const position = step * config.batchSize + part * size + i;
        return { place: passes.at(position).item, random: new Random("caption", config.seed, position) };
      });
      return {
        ...(await pictures.feeds(chosen.map(({ place }) => place))),
        ...texts.feeds(await Promise.all(chosen.map(({ place, random }) => given(place, random)))),
        ...(usesDropout && { seed: stepSeed(config.seed, step, part) }),
      };
    },
    evaluate: async () => {
      // A program holds what it reads of the frozen model: this one only as long as it is needed.
      const measure = await device.compile(
        { loss: watchedLoss },
        { weights, residentInputs: weightSlots(parameters) },
      );
      try {
        const count = Math.min(watchedPictures, validation.pictures.length);
        let sum = 0;
        for (let from = 0; from < count; from += watchedAtOnce) {
          const shown = await sliceOf(validation.pictures, from, Math.min(count, from + watchedAtOnce));
          const result = await measure.run({
            ...(await watched.feeds(shown.map((_, i) => from + i))),
            ...texts.feeds(shown.map(({ captions }) => ({ caption: captions[0]! }))),
          });
          sum += (result["loss"]!.data as Float32Array)[0]! * shown.length;
        }
        return { "validation loss": sum / count };
      } finally {
        await measure.release();
      }
    },
  };
}

/** Stage 1's weights for what both stages have unless that is to be fresh too, fresh ones for the language projection. */
async function startOf(
  stage1: ModelFolder,
  parameters: Parameters,
  { seed, freshQFormer }: Pick<Stage2Config, "seed" | "freshQFormer">,
): Promise<Map<string, HostTensor>> {
  const fresh = initialise(parameters.trainable, seed);
  if (freshQFormer) return fresh;
  const shared = new Map(
    [...parameters.shapes].filter(([name]) => isTrained(name) && !name.startsWith("language_projection.")),
  );
  checkTensors(shared, stage1.weights.tensors, stage1.path, { ignored: (name) => !shared.has(name) });
  for (const [name, value] of await stage1.weights.readAll(shared.keys())) fresh.set(name, toFloat32(value));
  return fresh;
}
