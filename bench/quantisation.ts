/**
 * `npm run bench -- quantisation`: what 8 and 4 bits cost. For each model: the error of soft prompts and of logits against fp32
 * (root mean square, as a share of the root mean square of the fp32 values around their mean), how often the next token
 * is the same one, and how many of the ids of greedy search agree, counted until the first that differs.
 *
 * --models FOLDER,... (default: the bundled model and a random one)  --images FILE,... (default: samples/)
 * --precisions int8,int4  --tokens 20
 */
import { mkdtemp, readdir, rm, cp } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { readModelFolder } from "../src/checkpoints/model-folder.js";
import { Blip2 } from "../src/generation/blip-2.js";
import type { ForwardOutputs } from "../src/generation/calls.js";
import { int64Tensor } from "../src/host-tensor.js";
import { loadImage } from "../src/images/load-image.js";
import { preprocess, preprocessConfig } from "../src/images/preprocess.js";
import { blip2Config } from "../src/models/blip-2.js";
import { precisions, type Precision } from "../src/loading/precision.js";
import { ensureRandomCheckpoint } from "./random-checkpoint.js";
import { inRepository } from "./repository.js";

interface Answers {
  readonly forward: ForwardOutputs;
  readonly ids: readonly (readonly number[])[];
}

/** The difference's root mean square over that of the values around their mean, each row by itself. */
function relativeError(found: Float32Array, exact: Float32Array, rowLength: number): number {
  let [difference, spread] = [0, 0];
  for (let from = 0; from < exact.length; from += rowLength) {
    let mean = 0;
    for (let i = from; i < from + rowLength; i++) mean += exact[i]! / rowLength;
    for (let i = from; i < from + rowLength; i++) {
      difference += (found[i]! - exact[i]!) ** 2;
      spread += (exact[i]! - mean) ** 2;
    }
  }
  return Math.sqrt(difference / spread);
}

function argmaxes(logits: Float32Array, vocabulary: number): number[] {
  return Array.from({ length: logits.length / vocabulary }, (_, row) => {
    let best = row * vocabulary;
    for (let i = best; i < (row + 1) * vocabulary; i++) if (logits[i]! > logits[best]!) best = i;
    return best - row * vocabulary;
  });
}

const share = (count: number, of: number): string => `${((100 * count) / of).toFixed(1)} %`;

async function answer(
  folder: string,
  images: readonly string[],
  precision: Precision,
  tokens: number,
  ids?: readonly (readonly number[])[],
): Promise<Answers> {
  const opened = await readModelFolder(folder);
  const config = blip2Config(opened.config);
  await using model = await Blip2.load(folder, { precision });
  const generated = await model.generateBatch({ images, numBeams: 1, maxNewTokens: tokens });
  const own = generated.map(({ tokenIds }) => tokenIds);
  // Logits along the texts that fp32 writes.
  const texts = (ids ?? own).map((text) => [config.text_config.bos_token_id ?? 2, ...text]);
  const length = Math.max(...texts.map((text) => text.length));
  const queries = config.num_query_tokens;
  const imageToken = config.image_token_index ?? undefined;
  const lead = imageToken === undefined ? [] : Array<number>(queries).fill(imageToken);
  const rows = texts.map((text) => [...lead, ...text, ...Array<number>(length - text.length).fill(1)]);
  const masks = texts.map((text) => [
    ...lead.map(() => 1),
    ...Array.from({ length }, (_, i) => Number(i < text.length)),
  ]);
  const dims = [rows.length, rows[0]!.length];
  const pictures = preprocessConfig(opened.preprocessor ?? { size: config.vision_config.image_size });
  const pixelValues = preprocess(await Promise.all(images.map((image) => loadImage(image))), pictures);
  const forward = await model.forward({
    pixelValues,
    inputIds: int64Tensor(rows.flat(), dims),
    attentionMask: int64Tensor(masks.flat(), dims),
  });
  return { forward, ids: own };
}

export async function quantisation(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      models: { type: "string", default: "" },
      images: { type: "string", default: "" },
      precisions: { type: "string", default: "int8,int4" },
      tokens: { type: "string", default: "20" },
    },
  });
  const temporary = await mkdtemp(path.join(tmpdir(), "blip2-quantisation-"));
  try {
    let models = values.models.split(",").filter(Boolean);
    if (models.length === 0) {
      // Copied, so that the package's own folder stays as it is.
      const bundled = path.join(temporary, "scenes-opt");
      await cp(inRepository("models/scenes-opt"), bundled, { recursive: true });
      const random = path.join(temporary, "random");
      await ensureRandomCheckpoint(random, "small");
      models = [bundled, random];
    }
    let images = values.images.split(",").filter(Boolean);
    if (images.length === 0) {
      const names = await readdir(inRepository("samples"));
      images = names
        .filter((name) => /\.(png|jpe?g)$/.test(name))
        .map((name) => inRepository(`samples/${name}`));
    }
    const tokens = Number(values.tokens);
    for (const folder of models) {
      const exact = await answer(folder, images, "fp32", tokens);
      for (const name of values.precisions.split(",")) {
        const precision = precisions.find((known) => known === name);
        if (precision === undefined)
          throw new Error(`--precisions: ${name} is none of ${precisions.join(", ")}`);
        const found = await answer(folder, images, precision, tokens, exact.ids);
        const error = (key: "visionFeatures" | "queryOutput" | "languageProjection" | "logits"): string => {
          const [ours, theirs] = [found.forward[key], exact.forward[key]];
          const width = theirs.dims.at(-1)!;
          return relativeError(ours.data as Float32Array, theirs.data as Float32Array, width).toFixed(4);
        };
        const vocabulary = exact.forward.logits.dims.at(-1)!;
        const next = [found, exact].map(({ forward }) =>
          argmaxes(forward.logits.data as Float32Array, vocabulary),
        );
        const same = next[0]!.filter((id, i) => id === next[1]![i]).length;
        const agreeing = exact.ids.map((ids, i) => {
          const first = ids.findIndex((id, at) => found.ids[i]![at] !== id);
          return first < 0 ? ids.length : first;
        });
        const total = exact.ids.reduce((sum, ids) => sum + ids.length, 0);
        console.log(
          `${path.basename(folder)} ${precision}: error of features ${error("visionFeatures")}, queries ${error("queryOutput")}, ` +
            `soft prompt ${error("languageProjection")}, logits ${error("logits")}; ` +
            `next token the same ${share(same, next[0]!.length)}; greedy ids agree ${share(
              agreeing.reduce((a, b) => a + b, 0),
              total,
            )} (${exact.ids.filter((ids, i) => agreeing[i] === ids.length).length} of ${images.length} texts equal)`,
        );
      }
    }
  } finally {
    await rm(temporary, { recursive: true });
  }
}
