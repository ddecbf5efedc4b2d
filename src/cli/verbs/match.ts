import { bundledRetriever } from "../generation-options.js";
import { loadingHooks, modelFolder, modelOptions, precisionOption } from "../model-option.js";
import { defineVerb } from "../verb.js";

export const match = defineVerb({
  name: "match",
  summary: "say how well texts describe a picture",
  operands: {
    image: { help: "a picture file (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, SVG, ...)" },
    text: { repeated: true, help: "texts to compare it with; results come in their order" },
  },
  options: {
    ...modelOptions,
    ...precisionOption,
    imageSize: {
      type: "integer",
      min: 1,
      help: "side in pixels to which the picture is resized; the model's own",
    },
    maxTextLength: {
      type: "integer",
      min: 3,
      help: "cut texts to so many tokens; nothing is cut if not given",
    },
  },
  jsonKeys: {
    image: "the path as given",
    text: "the text as given",
    itc: "contrastive similarity, a cosine: the best query's",
    itmLogit: "the matching head's logit for a match, the mean over the queries",
    itmProbability: "its probability of a match",
  },
  examples: [
    'blip2 match photo.jpg "two cats on a sofa"',
    'blip2 match photo.jpg "a cat" "a dog" --model Salesforce/blip2-itm-vit-g --json',
  ],

  async run(context, { operands: { image, text: texts }, options }) {
    const { output, progress, signal } = context;
    const { model: name = bundledRetriever, revision, precision, imageSize, maxTextLength } = options;
    const { Blip2Retriever } = await import("../../index.js");
    const { loadImage } = await import("../../images/load-image.js");
    // First, because it is quick to say that a picture is not there.
    const picture = await loadImage(image, { signal });
    const folder = await modelFolder(context, name, revision);
    await using retriever = await Blip2Retriever.load(folder, {
      imageSize,
      maxTextLength,
      precision,
      ...loadingHooks(context),
    });
    progress.update({ label: "match", step: 0, total: texts.length });
    const scores = await retriever.scoreTexts({ ...picture, channels: 3 }, texts, { signal });
    for (const [i, { itc, itmLogit, itmProbability }] of scores.entries()) {
      const text = texts[i]!;
      output.record(
        { image, text, itc, itmLogit, itmProbability },
        `${(100 * itmProbability).toFixed(1).padStart(5)} %  logit ${itmLogit.toFixed(3)}  cosine ${itc.toFixed(3)}  ${text}`,
      );
    }
  },
});
