/**
 * The parts of a retrieval model as programs of one device: image encoder, the run of queries with text, and the
 * run of text alone. The joint run serves the query-only one too: behind a mask of zeros the text is not seen.
 *
 * Shapes: B pictures, N pairs, S image side, P image positions, D_img image width, Q queries, T text positions, D
 * width, E width of the shared space, C classes of matching (2 as published).
 */
import { warnOnce } from "../notices.js";
import { checkTensors, layersMustFit } from "../checkpoints/model-folder.js";
import type { TensorFile } from "../checkpoints/safetensors.js";
import { input, ops, type Device, type Program, type Tensor } from "../engine/index.js";
import { stopIf, UserError } from "../errors.js";
import { int64Tensor, type HostTensor } from "../host-tensor.js";
import { CrossAttentionRecord } from "../models/cross-attention.js";
import { buildRetrieval, isUnusedRetrievalTensor, type RetrievalConfig } from "../models/blip-2-retrieval.js";
import { openFrozenWeights, type LoadingHooks } from "../loading/frozen-weights.js";
import type { Precision } from "../loading/precision.js";
import { Parameters } from "../nn/parameters.js";

export interface LookOptions {
  readonly signal?: AbortSignal | undefined;
  /** Whether the features after the norm are wanted as well. */
  readonly normalised?: boolean;
}

export interface RetrievalRunnerOptions extends LoadingHooks {
  readonly precision: Precision;
}

/** What the queries look at, and what of it speaks for a match. */
export interface MatchingRun {
  /** [B, L, H, Q, P] */
  readonly probabilities: HostTensor;
  /** Of the logits for a match, [B, L, H, Q, P]. */
  readonly gradients: HostTensor;
  /** [B, C] */
  readonly logits: HostTensor;
}

export class RetrievalRunner {
  private attending: Promise<Program> | undefined;

  private constructor(
    readonly config: RetrievalConfig,
    private readonly device: Device,
    private readonly vision: Program,
    private readonly joint: Program,
    private readonly text: Program,
    /** Attention is seldom asked for: its program is made when it is. */
    private readonly compileAttention: () => Promise<Program>,
  ) {}

  /**
   * Checks that the file holds the weights of `config`, and loads them part by part.
   * Throws a `UserError` that names every missing, unexpected and misshapen tensor.
   */
  static async load(
    device: Device,
    config: RetrievalConfig,
    file: TensorFile,
    { precision, ...hooks }: RetrievalRunnerOptions,
  ): Promise<RetrievalRunner> {
    layersMustFit(config, file.tensors, file.path);
    const parameters = new Parameters(() => false);
    const { vision, model } = buildRetrieval(config, matchingClasses(file), parameters);
    const { image_size: side, hidden_size: width } = config.vision_config;
    const hidden = vision.features(input("pixel_values", "float32", ["B", 3, side, side]));
    const visionOutputs = { hidden, visionFeatures: vision.normalise(hidden) };

    const features = input("features", "float32", ["B", vision.positions, width]);
    const [ids, mask] = [input("ids", "int64", ["N", "T"]), input("mask", "int64", ["N", "T"])];
    // A picture's keys and values are computed once, however many texts it is compared with.
    const picture = input("picture", "int64", ["N"]);
    const image = new Map(
      [...model.branch.imageKeyValues(features)].map(([layer, { key, value }]) => [
        layer,
        { key: ops.gatherRows(key, picture), value: ops.gatherRows(value, picture) },
      ]),
    );
    const { queryOutput, logits } = model.matching(image, ids, mask);
    const jointOutputs = { logits, imageEmbeds: model.imageEmbeds(queryOutput) };
    const textOutputs = { textEmbeds: model.textEmbeds(ids, mask) };

    checkTensors(parameters.shapes, file.tensors, file.path, {
      ignored: (name) => isUnusedRetrievalTensor(config, name),
      extra: hooks.onNotice ?? warnOnce,
    });
    const ignored = (name: string): boolean => !parameters.shapes.has(name);
    const open = await openFrozenWeights(file, { precision, tiedHead: false, ignored, ...hooks });
    const isNorm = (name: string): boolean => name.startsWith("vision_model.post_layernorm.");
    const isVision = (name: string): boolean => name.startsWith("vision_model.");
    const isText = (name: string): boolean => /^(?:qformer|embeddings|text_projection)\./.test(name);
    const compile = async (
      outputs: Readonly<Record<string, Tensor>>,
      wanted: (name: string) => boolean,
    ): Promise<Program> => {
      stopIf(hooks.signal);
      const weights = await open([...parameters.shapes.keys()].filter(wanted));
      return device.compile(outputs, { weights, onNotice: hooks.onNotice });
    };
    const compileAttention = async (): Promise<Program> => {
      const record = new CrossAttentionRecord();
      const [rowIds, rowMask] = [input("ids", "int64", ["B", "T"]), input("mask", "int64", ["B", "T"])];
      const seen = model.branch.imageKeyValues(features);
      const run = model.matching(seen, rowIds, rowMask, undefined, record.observe);
      const match = ops.select(run.logits, 1, Number(run.logits.shape[1]) - 1);
      // There is no gradient through quantised matrices.
      const published = await openFrozenWeights(file, {
        precision: "fp32",
        tiedHead: false,
        ignored,
        onNotice: hooks.onNotice,
      });
      const names = [...parameters.shapes.keys()].filter((name) => isNorm(name) || !isVision(name));
      return device.compile(
        {
          probabilities: record.probabilities(),
          gradients: record.gradients(match),
          logits: run.logits,
        },
        { weights: await published(names), onNotice: hooks.onNotice },
      );
    };
    return new RetrievalRunner(
      config,
      device,
      await compile(visionOutputs, isVision),
      await compile(jointOutputs, (name) => isNorm(name) || !isVision(name)),
      await compile(textOutputs, isText),
      compileAttention,
    );
  }

  /** pixels: [B, 3, S, S] -> features before the norm, and after it if wanted, [B, P, D_img]. */
  async look(
    pixels: HostTensor,
    { signal, normalised = false }: LookOptions = {},
  ): Promise<{ readonly hidden: HostTensor; readonly visionFeatures?: HostTensor }> {
    await using slots = this.device.slots();
    const residentOutputs = normalised ? {} : slots.bind(["visionFeatures"]);
    const { hidden, visionFeatures } = await this.vision.run(
      { pixel_values: pixels },
      { signal, residentOutputs },
    );
    return { hidden: hidden!, ...(visionFeatures && { visionFeatures }) };
  }

  /** Rows of unit length per query. features: [B, P, D_img] -> [B, Q, E]. */
  async imageEmbeds(features: HostTensor, signal?: AbortSignal): Promise<HostTensor> {
    const [count] = features.dims as readonly [number];
    const nothing = int64Tensor(new BigInt64Array(count), [count, 1]);
    const picture = int64Tensor(
      Array.from({ length: count }, (_, b) => b),
      [count],
    );
    const { imageEmbeds } = await this.joint.run(
      { features, picture, ids: nothing, mask: nothing },
      { signal },
    );
    return imageEmbeds!;
  }

  /** ids, mask: [N, T] -> rows of unit length [N, E]. */
  async textEmbeds(ids: HostTensor, mask: HostTensor, signal?: AbortSignal): Promise<HostTensor> {
    const { textEmbeds } = await this.text.run({ ids, mask }, { signal });
    return textEmbeds!;
  }

  /** features: [B, P, D_img], picture: int64 [N], which of them belongs to a text; ids, mask: [N, T] -> [N, C]. */
  async matchingLogits(
    features: HostTensor,
    picture: HostTensor,
    ids: HostTensor,
    mask: HostTensor,
    signal?: AbortSignal,
  ): Promise<HostTensor> {
    const { logits } = await this.joint.run({ features, picture, ids, mask }, { signal });
    return logits!;
  }

  /**
   * The joint run with its cross-attention, always with the weights as published. features: [B, P, D_img]; ids, mask:
   * [B, T]. Where the mask is zero everywhere, the queries look as they do without a text.
   */
  async matchingAttention(
    features: HostTensor,
    ids: HostTensor,
    mask: HostTensor,
    signal?: AbortSignal,
  ): Promise<MatchingRun> {
    this.attending ??= this.compileAttention();
    const { probabilities, gradients, logits } = await (
      await this.attending
    ).run({ features, ids, mask }, { signal });
    return { probabilities: probabilities!, gradients: gradients!, logits: logits! };
  }
}

/** From the head's rows, because no config says it. */
function matchingClasses(file: TensorFile): 1 | 2 {
  const rows = file.tensors.get("itm_head.weight")?.dims[0] ?? 2;
  if (rows === 1 || rows === 2) return rows;
  throw new UserError(`${file.path}: itm_head.weight has ${rows} rows: 2 (as published) or 1 are required`);
}
