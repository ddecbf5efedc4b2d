import { answerOptions, bundledModel, generationSettings } from "../generation-options.js";
import { loadBlip2 } from "../model-option.js";
import { defineVerb } from "../verb.js";

export const ask = defineVerb({
  name: "ask",
  summary: "answer questions about a picture, in few words",
  operands: {
    image: { help: "a picture file (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, SVG, ...)" },
    question: { repeated: true, help: "what to answer, each question for itself" },
  },
  options: {
    ...answerOptions,
    maxNewTokens: { ...answerOptions.maxNewTokens, help: "longest answer in tokens; 10" },
    minNewTokens: { ...answerOptions.minNewTokens, help: "tokens before an answer may end; 0" },
    beams: { ...answerOptions.beams, help: "width of the beam search, 1 for greedy; 5, with --sample 1" },
    lengthPenalty: {
      ...answerOptions.lengthPenalty,
      help: "of beam search: above 0 favours long answers, below 0 short ones; 0, for T5 -1",
    },
  },
  jsonKeys: {
    image: "the path as given",
    question: "the question as given",
    answer: "the text",
    logProbability: "the natural logarithm of the answer's probability",
  },
  examples: [
    'blip2 ask photo.jpg "what is in the picture?"',
    'blip2 ask photo.jpg "how many people are there?" "is it day or night?" --json',
  ],

  async run(context, { operands: { image, question: questions }, options }) {
    const { output, progress, signal } = context;
    const { model: name = bundledModel, revision, precision, promptFormat } = options;
    const settings = generationSettings("ask", options);
    const { answerSettings, questionPrompt } = await import("../../generation/questions.js");
    if (promptFormat !== undefined) questionPrompt(promptFormat, "");
    await using model = await loadBlip2(context, name, { revision, precision });
    const usual = answerSettings(model, settings);
    const given = Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
    // What is drawn at random needs no beams, and a minimum gives way to a smaller maximum.
    const numBeams = options.sample ? 1 : usual.numBeams;
    const maxNewTokens = Math.max(usual.maxNewTokens!, options.minNewTokens ?? 0);
    await using view = await model.look(image, { signal });
    for (const [step, question] of questions.entries()) {
      progress.update({ label: "ask", step, total: questions.length });
      const prompt = questionPrompt(promptFormat ?? model.questionFormat, question);
      const { text, logProbability } = await model.generate({
        ...usual,
        numBeams,
        maxNewTokens,
        ...given,
        image: view,
        prompt,
        signal,
      });
      const shown = questions.length === 1 ? text : `${question} ${text}`;
      output.record({ image, question, answer: text, logProbability }, shown);
    }
  },
});
