import { mkdir, readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../../errors.js";
import type { Blip2, Blip2Retriever } from "../../index.js";
import type { Output } from "../output.js";
import { demoPage, type ShownPicture, type ShownText } from "../demo-page.js";
import { bundledFamilies, bundledRetriever } from "../generation-options.js";
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

  async run(context, { options: { out, model: named, revision } }) {
    const { output, progress, log, signal } = context;
    const { Blip2, Blip2Retriever } = await import("../../index.js");
    const { writeFileAtomic } = await import("../../files/atomic-write.js");
    const pictures = await samplePictures();
    const models = named === undefined ? bundledFamilies : [named];
    const started = performance.now();
    await using retriever = await Blip2Retriever.load(bundledRetriever, { signal });
    let loadSeconds = seconds(started);
    const said = new Map(pictures.map(({ picture }) => [picture, [] as ShownText[]]));
    for (const [i, name] of models.entries()) {
      const loading = performance.now();
      await using model = await Blip2.load(await modelFolder(context, name, revision), { signal });
      loadSeconds += seconds(loading);
      for (const [k, picture] of pictures.entries()) {
        progress.update({
          label: "demo",
          step: i * pictures.length + k,
          total: models.length * pictures.length,
        });
        const text = await tell(model, retriever, picture, signal);
        said.get(picture.picture)!.push({ model: path.basename(name), ...text });
      }
    }
    const shown = pictures.map(({ picture, bytes }) => ({ picture, bytes, said: said.get(picture)! }));
    await mkdir(path.dirname(path.resolve(out)), { recursive: true });
    await writeFileAtomic(
      out,
      demoPage(shown, { models: models.map((name) => path.basename(name)), loadSeconds }),
    );
    print(output, shown);
    log(`${out}: the pictures with captions, answers and attention; open it in a browser`);
  },
});

interface Sample {
  /** The file's name. */
  readonly picture: string;
  readonly bytes: Uint8Array;
  readonly questions: readonly string[];
}

/** The pictures in samples/, each with its three questions from questions.json beside them. */
async function samplePictures(): Promise<readonly Sample[]> {
  const names = (await readdir(samples)).filter((file) => /\.(png|jpe?g|webp)$/.test(file)).sort();
  if (names.length === 0) throw new UserError(`${samples}: holds no pictures; install the package again`);
  const file = path.join(samples, "questions.json");
  const known = JSON.parse(await readFile(file, "utf8")) as Readonly<Record<string, readonly string[]>>;
  const missing = names.filter((name) => known[name] === undefined);
  if (missing.length > 0)
    throw new UserError(`${file}: has no questions about ${missing.join(", ")}; install the package again`);
  return Promise.all(
    names.map(async (picture) => ({
      picture,
      bytes: await readFile(path.join(samples, picture)),
      questions: known[picture]!,
    })),
  );
}

/** Caption, answers, and how the caption matches and where. */
async function tell(
  model: Blip2,
  retriever: Blip2Retriever,
  { bytes, questions }: Sample,
  signal: AbortSignal,
): Promise<Omit<ShownText, "model">> {
  const { drawAttention, matchingMaps, meanMap } = await import("../../index.js");
  const { answerSettings, questionPrompt } = await import("../../generation/questions.js");
  const begun = performance.now();
  await using view = await model.look(bytes, { signal });
  const { text: caption } = await model.generate({ image: view, signal });
  const answers: { question: string; answer: string }[] = [];
  for (const question of questions) {
    const prompt = questionPrompt(model.questionFormat, question);
    const { text: answer } = await model.generate({ ...answerSettings(model), image: view, prompt, signal });
    answers.push({ question, answer });
  }
  const matching = await retriever.matchingAttention(bytes, caption, { signal });
  const attention = await drawAttention(bytes, { map: meanMap(matchingMaps(matching)) });
  return { caption, answers, itmProbability: matching.itmProbability, attention, seconds: seconds(begun) };
}

function print(output: Output, shown: readonly ShownPicture[]): void {
  if (output.json) {
    for (const { picture, said } of shown)
      for (const { model, caption, answers, itmProbability, seconds: taken } of said)
        output.record({ picture, model, caption, answers, itmProbability, seconds: taken });
    return;
  }
  output.table(
    shown.flatMap(({ picture, said }) =>
      said.map(({ model, caption, itmProbability, seconds: taken }) => ({
        picture,
        model,
        caption,
        match: `${(100 * itmProbability).toFixed(0)} %`,
        seconds: taken,
      })),
    ),
  );
  output.text("\n");
  output.table(
    shown.flatMap(({ picture, said }) =>
      said[0]!.answers.map(({ question }, i) => ({
        picture,
        question,
        ...Object.fromEntries(said.map(({ model, answers }) => [model, answers[i]!.answer])),
      })),
    ),
  );
}

function seconds(since: number): number {
  return Math.round(performance.now() - since) / 1000;
}
