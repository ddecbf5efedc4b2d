import { UserError } from "../../errors.js";
import {
  bundledModel,
  candidatesOf,
  generationOptions,
  generationSettings,
  rankingOptions,
} from "../generation-options.js";
import { loadBlip2, loadRetriever, modelOptions, precisionOption } from "../model-option.js";
import { defineVerb } from "../verb.js";

export const caption = defineVerb({
  name: "caption",
  summary: "say what pictures show",
  operands: {
    image: { repeated: true, help: "picture files (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, SVG, ...)" },
  },
  options: {
    ...modelOptions,
    ...precisionOption,
    prompt: { type: "string", help: 'what the caption goes on from, such as "a photo of"' },
    ...generationOptions,
    numCaptions: {
      type: "integer",
      min: 1,
      max: 1000,
      help: "captions for each picture, best first: with --sample any number, otherwise at most the beams or the candidates; 1",
    },
    ...rankingOptions,
  },
  jsonKeys: {
    image: "the path as given",
    caption: "the text",
    logProbability: "the natural logarithm of the caption's probability",
    itc: "with --rank-by: the cosine that the retrieval model finds between picture and caption",
    error: "instead of all but the first: why this picture has no caption",
  },
  examples: [
    "blip2 caption photo.jpg",
    'blip2 caption *.png --prompt "a photo of" --beams 3 --json',
    "blip2 caption photo.jpg --sample --top-p 0.9 --seed 7 --num-captions 5",
    "blip2 caption photo.jpg --rank-by models/scenes-retrieval",
    "blip2 caption photo.jpg --model Salesforce/blip2-opt-2.7b",
  ],

  async run(context, { operands: { image: paths }, options }) {
    const { output, progress, log, signal } = context;
    const { model: name = bundledModel, revision, precision, prompt, numCaptions } = options;
    const settings = generationSettings("caption", options);
    const candidates = candidatesOf("caption", options);
    const most = candidates ?? (options.sample ? Infinity : (options.beams ?? Infinity));
    if ((numCaptions ?? 1) > most) {
      const [limit, remedy] =
        candidates === undefined
          ? [`--beams ${most}`, "give more beams or --sample"]
          : [`--candidates ${most}`, "give more candidates"];
      throw new UserError(`caption: --num-captions ${numCaptions} is more than ${limit}; ${remedy}`, {
        exitCode: 2,
      });
    }
    const { loadImage, shownPath } = await import("../../images/load-image.js");
    await using model = await loadBlip2(context, name, { revision, precision });
    await using ranker =
      options.rankBy === undefined ? undefined : await loadRetriever(context, options.rankBy);
    let failures = 0;
    for (const [step, image] of paths.entries()) {
      progress.update({ label: "caption", step, total: paths.length });
      // A broken picture is its own affair; whatever else fails would fail for every picture.
      const picture = await loadImage(image, { signal }).catch((error: unknown) => {
        if (!(error instanceof UserError)) throw error;
        return error;
      });
      if (picture instanceof UserError) {
        failures++;
        log(`blip2: ${picture.message}`);
        // No path is as long as a picture that was given in its place.
        const given = image.length > 4096 ? shownPath(image) : image;
        if (output.json) output.record({ image: given, error: picture.message });
        continue;
      }
      const source = { ...picture, channels: 3 } as const;
      const best = await model.generate({
        ...settings,
        numBeams:
          candidates !== undefined && !options.sample ? (settings.numBeams ?? candidates) : settings.numBeams,
        image: source,
        prompt,
        numReturnSequences: candidates ?? numCaptions,
        signal,
      });
      const written = best.sequences ?? [best];
      if (ranker === undefined) {
        for (const { text, logProbability } of written)
          output.record({ image, caption: text, logProbability }, `${image}: ${text}`);
        continue;
      }
      const whole = written.map(({ text }) => (prompt === undefined ? text : `${prompt} ${text}`));
      const ranked = await ranker.rankTexts(source, whole, { signal });
      for (const { index, itc } of ranked.slice(0, numCaptions ?? 1)) {
        const { text, logProbability } = written[index]!;
        output.record({ image, caption: text, logProbability, itc }, `${image}: ${text}`);
      }
    }
    return failures === 0 ? undefined : 1;
  },
});
