import { mkdir, readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../../errors.js";
import { demoPage, type ShownPicture, type ShownText } from "../demo-page.js";
import { bundledModel, bundledRetriever } from "../generation-options.js";
import { modelFolder, modelOptions } from "../model-option.js";
import { packageRoot } from "../package-root.js";
import { defineVerb } from "../verb.js";

const samples = fileURLToPath(new URL("samples", packageRoot));

export const demo = defineVerb({
  name: "demo",
  summary: "caption the sample pictures, ask about them, and make a page of it",
  options: {
    out: {
      type: "string",
      value: "FILE",
      default: "demo/index.html",
      help: "the page; its folder is made if need be",
    },
    ...modelOptions,
  },
  jsonKeys: {
    picture: "the file's name in samples/",
    model: "which model says it",
    caption: "what the model says",
    answers: "three questions with the model's answers",
    itmProbability:
      "how probable the bundled matching model finds it that the caption belongs to the picture",
    seconds: "from the picture's bytes to caption, answers, match and attention",
  },
  examples: ["blip2 demo", "blip2 demo --out /tmp/demo.html"],

  async run(context, { options: { out, model: name = bundledModel, revision } }) {
    const { output, progress, log, signal } = context;
    const { Blip2, Blip2Retriever, drawAttention, matchingMaps, meanMap } = await import("../../index.js");
    const { answerSettings, questionPrompt } = await import("../../generation/questions.js");
    const { writeFileAtomic } = await import("../../checkpoints/atomic-write.js");
    const names = (await readdir(samples)).filter((file) => /\.(png|jpe?g|webp)$/.test(file)).sort();
    if (names.length === 0) throw new UserError(`${samples}: holds no pictures; install the package again`);
    const asked = await readQuestions(names);
    const folder = await modelFolder(context, name, revision);
    const started = performance.now();
    await using model = await Blip2.load(folder, { signal });
    await using retriever = await Blip2Retriever.load(bundledRetriever, { signal });
    const loadSeconds = seconds(started);
    const pictures: ShownPicture[] = [];
    const rows: (ShownText & { readonly picture: string; readonly model: string })[] = [];
    for (const [step, picture] of names.entries()) {
      progress.update({ label: "demo", step, total: names.length });
      const bytes = await readFile(path.join(samples, picture));
      const begun = performance.now();
      await using view = await model.look(bytes, { signal });
      const { text: caption } = await model.generate({ image: view, signal });
      const answers: { question: string; answer: string }[] = [];
      for (const question of asked.get(picture)!) {
        const { text: answer } = await model.generate({
          ...answerSettings(model),
          image: view,
          prompt: questionPrompt(model.questionFormat, question),
          signal,
        });
        answers.push({ question, answer });
      }
      const matching = await retriever.matchingAttention(bytes, caption, { signal });
      const attention = await drawAttention(bytes, { map: meanMap(matchingMaps(matching)) });
      const { itmProbability } = matching;
      const text = { caption, answers, itmProbability, seconds: seconds(begun) };
      pictures.push({ picture, bytes, attention, ...text });
      rows.push({ picture, model: path.basename(name), ...text });
    }
    await mkdir(path.dirname(path.resolve(out)), { recursive: true });
    await writeFileAtomic(out, demoPage(pictures, { model: path.basename(name), loadSeconds }));
    if (output.json) for (const row of rows) output.record(row);
    else {
      output.table(
        rows.map(({ picture, caption, itmProbability, seconds: taken }) => ({
          picture,
          caption,
          match: `${(100 * itmProbability).toFixed(0)} %`,
          seconds: taken,
        })),
      );
      output.text("\n");
      output.table(
        rows.flatMap(({ picture, answers }) =>
          answers.map(({ question, answer }) => ({ picture, question, answer })),
        ),
      );
    }
    log(`${out}: the pictures with captions, answers and attention; open it in a browser`);
  },
});

/** Three questions to each picture, from questions.json beside them. */
async function readQuestions(names: readonly string[]): Promise<ReadonlyMap<string, readonly string[]>> {
  const file = path.join(samples, "questions.json");
  const known = JSON.parse(await readFile(file, "utf8")) as Readonly<Record<string, readonly string[]>>;
  const missing = names.filter((name) => known[name] === undefined);
  if (missing.length > 0)
    throw new UserError(`${file}: has no questions about ${missing.join(", ")}; install the package again`);
  return new Map(names.map((name) => [name, known[name]!]));
}

function seconds(since: number): number {
  return Math.round(performance.now() - since) / 1000;
}
