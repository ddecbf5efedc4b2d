import { fileURLToPath } from "node:url";
import { UserError } from "../../errors.js";
import { packageRoot } from "../package-root.js";
import { defineVerb } from "../verb.js";

/** The model that comes with the package. */
export const bundledModel = fileURLToPath(new URL("models/scenes-opt", packageRoot));

export const caption = defineVerb({
  name: "caption",
  summary: "say what pictures show",
  operands: { image: { repeated: true, help: "picture files (JPEG, PNG, WebP, GIF, TIFF, AVIF, SVG)" } },
  options: {
    model: { type: "string", value: "FOLDER", help: "the model's folder; the bundled model if not given" },
    prompt: { type: "string", help: 'what the caption goes on from, such as "a photo of"' },
    beams: {
      type: "integer",
      min: 1,
      max: 1000,
      help: "width of the beam search, 1 for greedy; the model's own, or 5",
    },
    maxNewTokens: { type: "integer", min: 1, help: "longest caption in tokens; the model's own, or 30" },
    minNewTokens: { type: "integer", min: 0, help: "shortest caption in tokens; the model's own, or 1" },
  },
  jsonKeys: {
    image: "the path as given",
    caption: "the text",
    logProbability: "the natural logarithm of the caption's probability",
    error: "instead of the last two: why this picture has no caption",
  },
  examples: ["blip2 caption photo.jpg", 'blip2 caption *.png --prompt "a photo of" --beams 3 --json'],

  async run({ output, progress, log, signal }, { operands: { image: paths }, options }) {
    const { model: folder = bundledModel, prompt, beams: numBeams, maxNewTokens, minNewTokens } = options;
    if ((minNewTokens ?? 0) > (maxNewTokens ?? Infinity)) {
      throw new UserError(
        `caption: --min-new-tokens ${minNewTokens} is more than --max-new-tokens ${maxNewTokens}`,
        { exitCode: 2 },
      );
    }
    const { Blip2 } = await import("../../index.js");
    const { loadImage } = await import("../../images/load-image.js");
    await using model = await Blip2.load(folder, { signal });
    let failures = 0;
    for (const [step, image] of paths.entries()) {
      progress.update({ label: "caption", step, total: paths.length });
      // A broken picture is its own affair; whatever else fails would fail for every picture.
      const picture = await loadImage(image).catch((error: unknown) => {
        if (!(error instanceof UserError)) throw error;
        return error;
      });
      if (picture instanceof UserError) {
        failures++;
        log(`blip2: ${picture.message}`);
        if (output.json) output.record({ image, error: picture.message });
        continue;
      }
      const { text, logProbability } = await model.generate({
        image: { ...picture, channels: 3 },
        prompt,
        numBeams,
        maxNewTokens,
        minNewTokens,
        signal,
      });
      output.record({ image, caption: text, logProbability }, `${image}: ${text}`);
    }
    return failures === 0 ? undefined : 1;
  },
});
