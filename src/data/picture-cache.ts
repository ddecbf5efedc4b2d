/** Decoded and resized pictures kept in memory as 8-bit RGB, so that a training run decodes each once. */
import { loadImage, type RgbImage } from "../images/load-image.js";
import { resizeBicubic } from "../images/resize-bicubic.js";

export class PictureCache {
  private readonly known = new Map<string, Promise<RgbImage>>();

  /** @param side pixels per side after resizing */
  constructor(private readonly side: number) {}

  get(file: string): Promise<RgbImage> {
    let picture = this.known.get(file);
    if (picture === undefined) {
      picture = loadImage(file).then((image) =>
        resizeBicubic(image, { width: this.side, height: this.side }),
      );
      this.known.set(file, picture);
    }
    return picture;
  }
}
