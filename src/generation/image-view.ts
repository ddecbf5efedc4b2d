/** A picture that a model has looked at: its soft visual prompt, made once and used as often as wanted. */
import { InternalError, UserError } from "../errors.js";
import { float32Tensor, type HostTensor } from "../host-tensor.js";
import { loadImage, type ImageSource } from "../images/load-image.js";
import { preprocessInTurns, type PreprocessConfig } from "../images/preprocess.js";
import type { Blip2Runner } from "./blip-2-runner.js";

/** What `Blip2.look` gives. It stands wherever that model takes an image. */
export class ImageView implements AsyncDisposable {
  private softPrompt: HostTensor | undefined;

  /**
   * @param runner the model that has looked.
   * @param softPrompt float32 [1, Q, L]
   */
  constructor(
    private readonly runner: Blip2Runner,
    softPrompt: HostTensor,
  ) {
    this.softPrompt = softPrompt;
  }

  /** [1, Q, L]. Throws a `UserError` if another model has looked, or if this has been closed. */
  softPromptFor(runner: Blip2Runner): HostTensor {
    if (runner !== this.runner) {
      throw new UserError("image: another model has looked at this picture; look at it with this one");
    }
    if (this.softPrompt === undefined) {
      throw new UserError("image: this view of a picture has been closed; look at the picture again");
    }
    return this.softPrompt;
  }

  /** Frees the soft prompt; closing twice is harmless. */
  async close(): Promise<void> {
    this.softPrompt = undefined;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** The soft prompts of pictures, in order, looked at in one batch where they have not been before. -> [B, Q, L] */
export async function softPromptsOf(
  runner: Blip2Runner,
  images: readonly (ImageSource | ImageView)[],
  pictures: PreprocessConfig,
  signal: AbortSignal | undefined,
): Promise<HostTensor> {
  const unseen = images.filter((image): image is ImageSource => !(image instanceof ImageView));
  // Before any work: a view that cannot be used is the caller's mistake.
  const seen = images.map((image) => (image instanceof ImageView ? image.softPromptFor(runner) : undefined));
  const fresh =
    unseen.length === 0
      ? undefined
      : await runner.softPrompts(
          await preprocessInTurns(
            await Promise.all(unseen.map((image) => loadImage(image, { signal }))),
            pictures,
          ),
          signal,
        );
  if (fresh !== undefined && unseen.length === images.length) return fresh;
  const [, queries, width] = (fresh ?? seen[0])?.dims ?? [];
  if (queries === undefined || width === undefined) throw new InternalError("soft prompts of no pictures");
  const size = queries * width;
  const data = new Float32Array(images.length * size);
  let next = 0;
  for (const [b, prompt] of seen.entries()) {
    const row = prompt?.data ?? fresh!.data.subarray(next * size, (next + 1) * size);
    if (prompt === undefined) next++;
    data.set(row as Float32Array, b * size);
  }
  return float32Tensor(data, [images.length, queries, width]);
}
