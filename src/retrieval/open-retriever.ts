/** From a model's name to what a `Blip2Retriever` works with. */
import { readModelFolder } from "../checkpoints/model-folder.js";
import type { Device } from "../engine/index.js";
import { openDevice } from "../engine/node.js";
import { stopIf, UserError } from "../errors.js";
import { findModel } from "../hub/hub.js";
import { openFrozenVision } from "../loading/frozen-vision.js";
import type { PictureEncoder } from "../loading/picture-encoder.js";
import { sizedVision } from "../loading/picture-size.js";
import { retrievalConfig } from "../models/blip-2-retrieval.js";
import { visionEncoder } from "../models/vision/vision-encoder.js";
import { Parameters } from "../nn/parameters.js";
import { loadTokenizer } from "../text/tokenizer.js";
import { ImageSide } from "./image-side.js";
import type { RetrieverLoadOptions } from "./options.js";
import { RetrievalRunner } from "./retrieval-runner.js";
import { TextSide } from "./text-side.js";

export interface OpenRetriever {
  readonly device: Device;
  readonly runner: RetrievalRunner;
  readonly images: ImageSide;
  readonly texts: TextSide;
  /** The image encoder alone, at the precision that was asked for. */
  readonly encoder: PictureEncoder;
}

/** Throws a `UserError` naming the file and what does not fit. */
export async function openRetriever(name: string, options: RetrieverLoadOptions): Promise<OpenRetriever> {
  const { precision = "fp32", threads, imageSize, maxTextLength, ...hub } = options;
  const opened = await readModelFolder(await findModel(name, hub));
  const published = retrievalConfig(opened.config, `${opened.path}/config.json`);
  const { max_position_embeddings: positions } = published.qformer_config;
  if (maxTextLength !== undefined && maxTextLength > positions) {
    throw new UserError(
      `load: maxTextLength is ${maxTextLength}: at most ${positions} is required, the model's text positions`,
    );
  }
  const { vision, preprocessing, weights } = sizedVision(opened, published.vision_config, imageSize);
  const tokenizer = await loadTokenizer(opened.path);
  stopIf(hub.signal);
  const device = openDevice({ threads });
  try {
    const config = { ...published, vision_config: vision };
    const runner = await RetrievalRunner.load(device, config, weights, { precision, ...hub });
    const images = new ImageSide(runner, preprocessing);
    const encoder: PictureEncoder = {
      path: opened.path,
      positions: visionEncoder(vision, new Parameters(() => false)).positions,
      width: vision.hidden_size,
      side: vision.image_size,
      preprocessing,
      digest: async () => {
        const sized = { ...opened, weights, config: { ...opened.config, vision_config: vision } };
        const hash = await openFrozenVision(sized).hash();
        return precision === "fp32" ? hash : `${hash} ${precision}`;
      },
      open: (load) => Promise.resolve(images.opened(load)),
    };
    return { device, runner, images, texts: new TextSide(runner, tokenizer, maxTextLength), encoder };
  } catch (error) {
    await device.close();
    throw error;
  }
}
