/** Why a decoder does not give a picture; `loadImage` puts the file's name before it and makes a `UserError` of it. */
export class PictureRefusal extends Error {
  override readonly name = "PictureRefusal";

  constructor(
    /** The file's fault, a kind that is not read, or more than is taken on. */
    readonly kind: "damaged" | "unsupported" | "too large",
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
  }
}

export function damaged(message: string): PictureRefusal {
  return new PictureRefusal("damaged", message);
}

export function unsupported(message: string): PictureRefusal {
  return new PictureRefusal("unsupported", message);
}

export function tooLarge(message: string): PictureRefusal {
  return new PictureRefusal("too large", message);
}
