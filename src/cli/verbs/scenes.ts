import { defineVerb } from "../verb.js";

export const scenes = defineVerb({
  name: "scenes",
  summary: "make a data set of drawn scenes with captions, questions and answers",
  options: {
    out: { type: "string", value: "FOLDER", required: true, help: "the folder to make; new or empty" },
    count: { type: "integer", min: 1, required: true, help: "training pictures" },
    seed: { type: "integer", min: 0, default: 0, help: "the same seed makes the same world" },
    validation: { type: "integer", min: 0, help: "validation pictures; a share of --count if not given" },
    test: { type: "integer", min: 0, help: "test pictures; a share of --count if not given" },
    compositional: {
      type: "integer",
      min: 0,
      help: "test pictures with pairs of colour and thing that training never shows; a share of --count if not given",
    },
    text: { type: "integer", min: 0, help: "lines of training text; five for each of --count if not given" },
    format: { type: "enum", choices: ["png", "jpeg"], default: "png", help: "how pictures are stored" },
  },
  jsonKeys: {
    images: "pictures written, over all splits",
    captions: "captions written",
    questions: "questions written, each with its answer",
  },
  examples: ["blip2 scenes --out runs/scenes --count 20000 --seed 1"],

  async run({ output, progress, signal }, { options }) {
    const { writeScenes } = await import("../../data/scenes/index.js");
    const { out, count, seed, format, text, validation, test, compositional } = options;
    const written = await writeScenes(
      {
        out,
        count,
        seed,
        format: format === "jpeg" ? "jpg" : format,
        ...(validation !== undefined && { validation }),
        ...(test !== undefined && { test }),
        ...(compositional !== undefined && { compositional }),
        ...(text !== undefined && { textCount: text }),
      },
      {
        signal,
        onProgress: ({ done, total }) => progress.update({ label: "scenes", step: done, total }),
      },
    );
    const { images, captions, questions } = written;
    output.record(written, `${out}: ${images} pictures, ${captions} captions, ${questions} questions`);
  },
});
