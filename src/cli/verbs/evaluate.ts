import { UserError } from "../../errors.js";
import { candidatesOf, questionOptions, rankingOptions } from "../generation-options.js";
import {
  loadBlip2,
  loadRetriever,
  modelFolder,
  precisionOption,
  requiredModelOptions,
} from "../model-option.js";
import { kebabCase } from "../options.js";
import { defineVerb } from "../verb.js";

/** What can be evaluated, and which options apply to it besides those that apply to all. */
const tasks = {
  caption: ["split", "prompt", "beams", "given", "rankBy", "candidates", "out", "precision"],
  vqa: ["split", "beams", "given", "promptFormat", "answerAfter", "out", "precision"],
  vision: ["split", "towers"],
  "language-model": ["out"],
  stage1: ["split", "features"],
  retrieval: ["split", "captions", "rerank", "features", "precision"],
} as const;
type Task = keyof typeof tasks;
const taskNames = Object.keys(tasks) as Task[];

export const evaluate = defineVerb({
  name: "evaluate",
  summary: "measure a model on a data set",
  operands: {
    task: { choices: taskNames, help: "what to measure" },
  },
  options: {
    ...requiredModelOptions,
    data: { type: "string", value: "FOLDER", required: true, help: "a folder made by blip2 scenes" },
    split: {
      type: "enum",
      choices: ["train", "validation", "test", "compositional"],
      help: "pictures to measure on (caption, vqa, vision, stage1, retrieval); test if not given",
    },
    limit: { type: "integer", min: 1, help: "measure on the first N samples only" },
    prompt: {
      type: "string",
      value: "TEXT",
      help: "words that every caption goes on from, and that are not judged (caption); none if not given",
    },
    beams: {
      type: "integer",
      min: 1,
      help: "beams of the search (caption, vqa); if not given the model's own default, for vqa 5",
    },
    rankBy: { ...rankingOptions.rankBy, help: `${rankingOptions.rankBy.help} (caption)` },
    candidates: { ...rankingOptions.candidates, help: `${rankingOptions.candidates.help} (caption)` },
    given: {
      type: "enum",
      choices: ["picture", "nothing", "description"],
      help: "what is asked about (vqa) or told of (caption): the picture, nothing, which shows what the language model guesses, or a written description of the scene; picture if not given",
    },
    promptFormat: {
      ...questionOptions.promptFormat,
      help: `${questionOptions.promptFormat.help} (vqa)`,
    },
    answerAfter: {
      ...questionOptions.answerAfter,
      help: `${questionOptions.answerAfter.help} (vqa)`,
    },
    towers: {
      type: "string",
      value: "FOLDER",
      help: "the towers that were trained beside the model (vision)",
    },
    captions: {
      type: "integer",
      min: 1,
      help: "captions of each picture that take part, from its first (retrieval); all if not given",
    },
    rerank: {
      type: "integer",
      min: 1,
      help: "rank the best N of each list again by the matching head (retrieval)",
    },
    features: {
      type: "string",
      value: "FOLDER",
      help: "where image features are kept (stage1, retrieval with --rerank); the folder features in that of the data if not given",
    },
    out: {
      type: "string",
      value: "FILE",
      help: "keep what the model said of each sample, as JSON lines (caption, vqa, language-model)",
    },
    ...precisionOption,
    threads: {
      type: "integer",
      min: 1,
      help: "threads to compute with; all CPUs that may be used if not given",
    },
  },
  jsonKeys: {
    images: "caption, vqa, vision, retrieval: pictures measured",
    accuracy:
      "vqa: mean accuracy of the answers, each in so far as people give it; by type of question under accuracy: TYPE",
    "most frequent answer":
      "vqa given nothing: the same of one answer to all questions of a type, the one that does best; by type likewise",
    questions: "vqa: questions asked",
    kindF1: "caption: F1 of kinds of things over all mentions",
    colorF1: "caption: F1 of things with their colours over all mentions",
    colorGivenKind: "caption: share of colours that are right where the kind is",
    background: "caption: share of captions with the right background",
    countExact: "caption: share of captions with the right number of things",
    captionExact: "caption: share of captions in which everything is right",
    heldOutF1:
      "caption: F1 over pairs of kind and colour that training never showed; on pictures that show some",
    heldOutRecall: "caption: share of such things that are told",
    "image to text recall@1": "vision: the right text first for a picture, in pools of pictures (key pool)",
    "text to image recall@1": "vision: the right picture first for a text",
    answers: "language-model: share of questions answered right; by type under answers: TYPE",
    "test itc image to text recall@1": "stage1: by the contrastive similarity; the other way likewise",
    "test itm accuracy":
      "stage1: right decisions on true pairs and pairs with another text; with the hardest texts likewise",
    "itc image to text recall@1":
      "retrieval: a right text first for a picture, by the contrastive similarity; also @5, @10 and text to image",
    "itm image to text recall@1": "retrieval: the same once the best were ranked again (key rerank)",
  },
  examples: [
    "blip2 evaluate caption --model runs/stage2/model --data runs/scenes --split compositional",
    "blip2 evaluate vqa --model runs/stage2/model --data runs/scenes --given nothing",
    "blip2 evaluate retrieval --model models/scenes-retrieval --data runs/scenes --rerank 16",
    "blip2 evaluate vision --model runs/vision/model --towers runs/vision/towers --data runs/scenes",
  ],

  async run(context, { operands: { task }, options }) {
    const { output, progress, log, signal } = context;
    const {
      model: name,
      revision,
      data,
      split = "test",
      limit,
      prompt,
      beams,
      rankBy,
      given,
      promptFormat,
      answerAfter,
      towers,
      captions,
      rerank,
      features,
      out,
      precision,
      threads,
    } = options;
    const applies: readonly string[] = tasks[task];
    const specific = [...new Set(Object.values(tasks).flat())];
    const idle = specific.filter((option) => options[option] !== undefined && !applies.includes(option));
    if (idle.length > 0) {
      const names = idle.map((name) => `--${kebabCase(name)}`).join(", ");
      throw new UserError(`evaluate: ${names} does not apply to ${task}`, { exitCode: 2 });
    }
    const candidates = candidatesOf("evaluate", { rankBy, candidates: options.candidates, beams });
    const model = await modelFolder(context, name, revision);
    const common = {
      model,
      data,
      limit,
      threads,
      signal,
      log,
      onProgress: ({ step, total, detail }: { step: number; total: number; detail: string }) =>
        progress.update({ label: detail, step, total }),
    };
    const keep = async (samples: readonly object[]): Promise<void> => {
      if (out === undefined) return;
      const { writeFileAtomic } = await import("../../files/atomic-write.js");
      await writeFileAtomic(out, samples.map((sample) => `${JSON.stringify(sample)}\n`).join(""));
    };
    switch (task) {
      case "caption": {
        const { evaluateCaptions } = await import("../../evaluation/caption.js");
        await using captioner = await loadBlip2(context, model, { revision: undefined, precision, threads });
        await using ranker =
          rankBy === undefined ? undefined : await loadRetriever(context, rankBy, { threads });
        const ranking = ranker && { ranker, candidates: candidates! };
        const { quality, predictions } = await evaluateCaptions(captioner, {
          ...common,
          split,
          prompt,
          beams,
          ranking,
          given,
        });
        await keep(predictions);
        return output.record(quality);
      }
      case "vqa": {
        const { evaluateVqa } = await import("../../evaluation/vqa.js");
        await using answerer = await loadBlip2(context, model, { revision: undefined, precision, threads });
        const { measures, predictions } = await evaluateVqa(answerer, {
          ...common,
          split,
          beams,
          given,
          promptFormat,
          answerAfter,
        });
        await keep(predictions);
        return output.record(measures);
      }
      case "vision": {
        if (towers === undefined)
          throw new UserError("evaluate: --towers is required for vision", { exitCode: 2 });
        const { evaluateVision } = await import("../../evaluation/vision.js");
        return output.record(await evaluateVision({ ...common, towers, split }));
      }
      case "language-model": {
        const { evaluateLanguageModel } = await import("../../evaluation/language-model.js");
        const { measures, answers } = await evaluateLanguageModel(common);
        await keep(answers);
        return output.record(measures);
      }
      case "stage1": {
        const { evaluateStage1 } = await import("../../evaluation/stage-1.js");
        return output.record(await evaluateStage1({ ...common, split, features }));
      }
      case "retrieval": {
        const { evaluateRetrieval } = await import("../../evaluation/retrieval.js");
        return output.record(
          await evaluateRetrieval({ ...common, split, captions, rerank, features, precision }),
        );
      }
    }
  },
});
