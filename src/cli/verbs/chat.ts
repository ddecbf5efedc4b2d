import { createInterface } from "node:readline";
import { answerOptions, bundledModel, generationSettings } from "../generation-options.js";
import { loadBlip2 } from "../model-option.js";
import { defineVerb } from "../verb.js";

export const chat = defineVerb({
  name: "chat",
  summary: "talk about a picture: each line that is read is a question, asked behind the ones before",
  operands: { image: { help: "a picture file (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, SVG, ...)" } },
  options: {
    ...answerOptions,
    beams: { ...answerOptions.beams, help: "width of the beam search; 1, which is greedy search" },
    context: {
      type: "integer",
      min: 1,
      help: "leave out the oldest turns so that picture, turns and question, without an encoder the longest answer too, take at most N tokens; the model's positions, for T5 512",
    },
  },
  jsonKeys: {
    image: "the path as given",
    question: "the line that was read",
    answer: "the text",
    logProbability: "the natural logarithm of the answer's probability",
    forgotten: "how many of the turns so far, the oldest, have been left out for want of context",
  },
  examples: [
    "blip2 chat photo.jpg",
    "blip2 chat photo.jpg --json < questions.txt",
    "blip2 chat photo.jpg --context 100",
  ],

  async run(context, { operands: { image }, options }) {
    const { input, isInteractive, output, log, signal } = context;
    const { model: name = bundledModel, revision, precision, promptFormat: format } = options;
    const { numBeams = 1, ...settings } = generationSettings("chat", options);
    await using model = await loadBlip2(context, name, { revision, precision });
    await using talk = await model.chat({ image, format, context: options.context, signal });
    const invite = (): void => {
      if (isInteractive) output.text("> ");
    };
    // Lines are read as the terminal sends them, so that Ctrl-C and Ctrl-D mean what they mean everywhere.
    const lines = createInterface({ input, terminal: false, signal });
    let forgotten = 0;
    try {
      if (isInteractive) log("blip2: ask about the picture; Ctrl-D ends the chat");
      invite();
      for await (const line of lines) {
        const question = line.trim();
        if (question !== "") {
          if (isInteractive && !output.json && numBeams === 1) {
            for await (const piece of talk.stream(question, { ...settings, signal })) output.text(piece);
            output.text("\n");
          } else {
            const { text, logProbability } = await talk.ask(question, { ...settings, numBeams, signal });
            output.record({ image, question, answer: text, logProbability, forgotten: talk.forgotten }, text);
          }
          if (talk.forgotten > forgotten) {
            const count = talk.forgotten - forgotten;
            log(
              `blip2: the context of ${talk.context} tokens is used up; ` +
                `${count === 1 ? "the oldest turn has" : `the ${count} oldest turns have`} been left out`,
            );
            forgotten = talk.forgotten;
          }
        }
        invite();
      }
      // The line of an invitation that nobody took up.
      if (isInteractive) output.text("\n");
    } finally {
      lines.close();
      input.pause();
    }
  },
});
