/** Decoded and resized pictures kept in memory as 8-bit RGB, so that a training run decodes each once. */
import { loadImage, type ImageSource, type RgbImage } from "../images/load-image.js";
import { resizeBicubic } from "../images/resize-bicubic.js";

export class PictureCache {
  private readonly known = new Map<string, Promise<RgbImage>>();

  /** @param side pixels per side after resizing */
  constructor(private readonly side: number) {}

  /** @param name tells the pictures of a data set apart */
  get(image: ImageSource, name: string): Promise<RgbImage> {
    let picture = this.known.get(name);
    if (picture === undefined) {
      picture = loadImage(image).then((decoded) =>
        resizeBicubic(decoded, { width: this.side, height: this.side }),
      );
      this.known.set(name, picture);
    }
    return picture;
  }
}
