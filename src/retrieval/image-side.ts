/** Pictures on their way into a retrieval model, and what its image encoder makes of them. */
import { stopIf } from "../errors.js";
import { float32Tensor, type HostTensor } from "../host-tensor.js";
import { loadImage, type ImageSource, type RgbImage } from "../images/load-image.js";
import { preprocess, type PreprocessConfig } from "../images/preprocess.js";
import type { OpenPictureEncoder } from "../loading/picture-encoder.js";
import { chunks } from "./chunks.js";
import { EncodedImage } from "./encoded-image.js";
import type { RetrievalRunner } from "./retrieval-runner.js";
import { checkFinite, rowOf } from "./scores.js";

const picturesAtOnce = 8;

export class ImageSide {
  constructor(
    private readonly runner: RetrievalRunner,
    private readonly preprocessing: PreprocessConfig,
  ) {}

  /** In their order. Those that are encoded already stay as they are, if it was here. */
  async encode(
    images: readonly (ImageSource | EncodedImage)[],
    signal: AbortSignal | undefined,
  ): Promise<EncodedImage[]> {
    const encoded: EncodedImage[] = [];
    for (const part of chunks(images, picturesAtOnce)) {
      stopIf(signal);
      const sources = part.filter((image): image is ImageSource => !(image instanceof EncodedImage));
      const seen = sources.length === 0 ? [] : await this.encodeBatch(sources, signal);
      for (const image of part) {
        if (image instanceof EncodedImage) image.featuresOf(this);
        encoded.push(image instanceof EncodedImage ? image : seen.shift()!);
      }
    }
    return encoded;
  }

  /** Features of encoded pictures as one tensor, [B, P, D_img]. */
  stacked(images: readonly EncodedImage[]): HostTensor {
    return this.joined(images.map((image) => image.featuresOf(this)));
  }

  /** Rows of unit length, Q x E numbers of each picture. features: [B, P, D_img]. */
  async embed(features: HostTensor, signal: AbortSignal | undefined): Promise<Float32Array[]> {
    const count = features.dims[0]!;
    const embeds = await this.runner.imageEmbeds(features, signal);
    checkFinite("pictures", embeds);
    return Array.from({ length: count }, (_, i) => rowOf(embeds, i, count));
  }

  /** The image encoder alone, for stores of features. `load` decodes the picture at a place. */
  opened(load: (place: number) => Promise<RgbImage>): OpenPictureEncoder {
    return {
      features: async (places, signal) => {
        const parts: Float32Array[] = [];
        for (const part of chunks(places, picturesAtOnce)) {
          stopIf(signal);
          const pixels = preprocess(await Promise.all(part.map(load)), this.preprocessing);
          const { hidden } = await this.runner.look(pixels, { signal });
          parts.push(...part.map((_, i) => rowOf(hidden, i, part.length)));
        }
        return this.joined(parts);
      },
      release: () => Promise.resolve(),
    };
  }

  private async encodeBatch(
    images: readonly ImageSource[],
    signal: AbortSignal | undefined,
  ): Promise<EncodedImage[]> {
    const pixels = preprocess(
      await Promise.all(images.map((image) => loadImage(image, { signal }))),
      this.preprocessing,
    );
    const { hidden } = await this.runner.look(pixels, { signal });
    const embeddings = await this.embed(hidden, signal);
    return embeddings.map((rows, i) => new EncodedImage(this, rows, rowOf(hidden, i, images.length)));
  }

  /** Rows [P, D_img] as [B, P, D_img]. */
  private joined(rows: readonly Float32Array[]): HostTensor {
    const { hidden_size: width } = this.runner.config.vision_config;
    const size = rows[0]!.length;
    const data = new Float32Array(rows.length * size);
    rows.forEach((row, b) => data.set(row, b * size));
    return float32Tensor(data, [rows.length, size / width, width]);
  }
}
