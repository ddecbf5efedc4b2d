import { UserError } from "../../errors.js";
import { bundledModel, generationOptions, generationSettings } from "../generation-options.js";
import { loadBlip2, modelOptions, precisionOption } from "../model-option.js";
import { defineVerb } from "../verb.js";

export const caption = defineVerb({
  name: "caption",
  summary: "say what pictures show",
  operands: { image: { repeated: true, help: "picture files (JPEG, PNG, WebP, GIF, TIFF, AVIF, SVG)" } },
  options: {
    ...modelOptions,
    ...precisionOption,
    prompt: { type: "string", help: 'what the caption goes on from, such as "a photo of"' },
    ...generationOptions,
    numCaptions: {
      type: "integer",
      min: 1,
      max: 1000,
      help: "captions for each picture, best first: with --sample any number, otherwise at most the beams; 1",
    },
  },
  jsonKeys: {
    image: "the path as given",
    caption: "the text",
    logProbability: "the natural logarithm of the caption's probability",
    error: "instead of the last two: why this picture has no caption",
  },
  examples: [
    "blip2 caption photo.jpg",
    'blip2 caption *.png --prompt "a photo of" --beams 3 --json',
    "blip2 caption photo.jpg --sample --top-p 0.9 --seed 7 --num-captions 5",
    "blip2 caption photo.jpg --model Salesforce/blip2-opt-2.7b",
  ],

  async run(context, { operands: { image: paths }, options }) {
    const { output, progress, log, signal } = context;
    const { model: name = bundledModel, revision, precision, prompt, numCaptions } = options;
    const settings = generationSettings("caption", options);
    if (!options.sample && (numCaptions ?? 1) > (options.beams ?? Infinity)) {
      throw new UserError(
        `caption: --num-captions ${numCaptions} is more than --beams ${options.beams}; give more beams or --sample`,
        { exitCode: 2 },
      );
    }
    const { loadImage } = await import("../../images/load-image.js");
    await using model = await loadBlip2(context, name, { revision, precision });
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
      const best = await model.generate({
        ...settings,
        image: { ...picture, channels: 3 },
        prompt,
        numReturnSequences: numCaptions,
        signal,
      });
      for (const { text, logProbability } of best.sequences ?? [best]) {
        output.record({ image, caption: text, logProbability }, `${image}: ${text}`);
      }
    }
    return failures === 0 ? undefined : 1;
  },
});
