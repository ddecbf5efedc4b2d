/** `blip2 evaluate vqa`: what is asked and how it is judged, with stand-ins and with tiny models of both families. */
import { cp, readFile, rm, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeScenes } from "../../src/data/scenes/index.js";
import { evaluateVqa, type Answerer, type VqaEvaluation } from "../../src/evaluation/vqa.js";
import { vqaAccuracy } from "../../src/metrics/vqa-accuracy.js";
import type { GenerateSettings } from "../../src/generation/options.js";
import { familyOf, type FamilyName } from "../../src/models/language/families.js";
import { float32Tensor } from "../../src/host-tensor.js";
import { blip2 } from "../cli/captured.js";
import { temporaryFolder, writeTinyModel } from "../generation/tiny-model.js";
import { writeTinyT5 } from "../generation/tiny-t5.js";

let root: string;
let data: string;
let questions: readonly { question_id: number; image_id: number; question: string }[];
let truth: ReadonlyMap<string, string>;

interface Annotation {
  question_id: number;
  image_id: number;
  question_type: string;
  answers: { answer: string }[];
}
const jsonOf = async <T>(path: string): Promise<T> => JSON.parse(await readFile(path, "utf8")) as T;
const keyOf = (image: string, question: string): string => `${image} ${question}`;
const nameOf = (id: number): string => join(data, "images", "test", `${String(id).padStart(6, "0")}.png`);

beforeAll(async () => {
  root = await temporaryFolder();
  data = join(root, "scenes");
  await writeScenes({ out: data, seed: 3, count: 1, validation: 0, test: 5, compositional: 2, textCount: 0 });
  ({ questions } = await jsonOf<{ questions: typeof questions }>(join(data, "questions_test.json")));
  const { annotations } = await jsonOf<{ annotations: Annotation[] }>(join(data, "annotations_test.json"));
  truth = new Map(
    annotations.map(({ question_id: id, answers }) => {
      const { image_id, question } = questions.find(({ question_id }) => question_id === id)!;
      return [keyOf(nameOf(image_id), question), answers[0]!.answer];
    }),
  );
});
afterAll(() => rm(root, { recursive: true }));

/** Answers by `say`, and keeps account of what it was asked. */
class StandIn implements Answerer {
  readonly looks: string[] = [];
  readonly asked: (GenerateSettings & {
    prompts: readonly string[];
    descriptions?: readonly string[] | undefined;
  })[] = [];
  open = 0;
  most = 0;
  readonly config;
  readonly questionFormat: string;
  readonly answerAfter: string | undefined;
  private readonly pictures = new Map<AsyncDisposable, string>();

  constructor(
    private readonly say: (prompt: string, picture: string | undefined) => string,
    languageModel: FamilyName = "opt",
    style: { readonly format?: string; readonly answerAfter?: string } = {},
  ) {
    this.config = { text_config: { model_type: languageModel } };
    this.questionFormat = style.format ?? familyOf({ model_type: languageModel }).questionFormat;
    this.answerAfter = style.answerAfter;
  }

  look(image: string): Promise<AsyncDisposable> {
    this.looks.push(image);
    this.most = Math.max(this.most, ++this.open);
    const view = {
      [Symbol.asyncDispose]: () => {
        this.open--;
        return Promise.resolve();
      },
    };
    this.pictures.set(view, image);
    return Promise.resolve(view);
  }

  generateBatch(
    options: GenerateSettings & { images: readonly AsyncDisposable[]; prompts: readonly string[] },
  ) {
    this.asked.push(options);
    const { images, prompts } = options;
    expect(images).toHaveLength(prompts.length);
    return Promise.resolve(
      prompts.map((prompt, i) => ({ text: this.say(prompt, this.pictures.get(images[i]!)) })),
    );
  }

  generateWithoutPicture(
    options: GenerateSettings & { prompts: readonly string[]; descriptions?: readonly string[] | undefined },
  ) {
    this.asked.push(options);
    return Promise.resolve(options.prompts.map((prompt) => ({ text: this.say(prompt, undefined) })));
  }
}

const questionIn = (prompt: string): string => /^Question: (.*) (Short answer|Answer):$/.exec(prompt)![1]!;
const evaluated = (model: StandIn, options: Partial<VqaEvaluation> = {}) =>
  evaluateVqa(model, { data, split: "test", ...options });

describe("evaluateVqa", () => {
  it("gives one who knows the answers full marks, and looks at each picture once", async () => {
    const model = new StandIn((prompt, picture) =>
      truth.get(keyOf(picture!, questionIn(prompt)))!.toUpperCase(),
    );
    const steps: number[] = [];
    const { measures, predictions } = await evaluated(model, {
      onProgress: ({ step }) => void steps.push(step),
    });
    const { questions: count, images, ...shares } = measures;
    expect([count, images]).toEqual([questions.length, 5]);
    expect(Object.values(shares)).toEqual(Object.values(shares).map(() => 1));
    const types = new Set(predictions.map(({ question_type }) => `accuracy: ${question_type}`));
    expect(Object.keys(shares)).toEqual(["accuracy", ...[...types].sort()]);
    expect(model.looks).toEqual([0, 1, 2, 3, 4].map(nameOf));
    expect(model.open).toBe(0);
    expect(model.most).toBeLessThan(5);
    expect(steps.at(-1)).toBe(questions.length);
    expect(model.asked.every(({ prompts }) => prompts.length <= 16)).toBe(true);
  });

  it("closes its views after an error too", async () => {
    const model = new StandIn(() => {
      throw new Error("lost");
    });
    await expect(evaluated(model)).rejects.toThrow("lost");
    expect(model.looks.length).toBeGreaterThan(0);
    expect(model.open).toBe(0);
  });

  it.each([
    ["opt", "Question: what is the background? Answer:", 0],
    ["t5", "Question: what is the background? Short answer:", -1],
  ] as const)(
    "puts questions to %s as the paper does, and searches as LAVIS does",
    async (family, prompt, lengthPenalty) => {
      const model = new StandIn(() => "snow", family);
      await evaluated(model);
      expect(model.asked.flatMap(({ prompts }) => prompts)).toContain(prompt);
      const settings = { maxNewTokens: 10, minNewTokens: 0, numBeams: 5, lengthPenalty };
      for (const asked of model.asked) expect(asked).toMatchObject(settings);
      const other = new StandIn(() => "snow", family);
      await evaluated(other, { beams: 1, promptFormat: "{} It is", limit: 3 });
      expect(other.asked).toHaveLength(1);
      expect(other.asked[0]).toMatchObject({ ...settings, numBeams: 1 });
      expect(other.asked[0]!.prompts).toEqual(
        questions.slice(0, 3).map(({ question }) => `${question} It is`),
      );
    },
  );

  it("asks a model that says the question again in its own way, and gives it room", async () => {
    const model = new StandIn(() => "snow", "t5", { format: "Question: {}", answerAfter: "Short answer:" });
    await evaluated(model, { limit: 2 });
    expect(model.asked[0]).toMatchObject({ answerAfter: "Short answer:", maxNewTokens: 50 });
    expect(model.asked[0]!.prompts).toEqual(
      questions.slice(0, 2).map(({ question }) => `Question: ${question}`),
    );
    const other = new StandIn(() => "snow");
    await evaluated(other, { limit: 2, answerAfter: "so:" });
    expect(other.asked[0]).toMatchObject({ answerAfter: "so:", maxNewTokens: 50 });
  });

  it("leaves the picture out, and tells what a constant answer would reach", async () => {
    const model = new StandIn((prompt) => (questionIn(prompt).startsWith("is there") ? "yes" : "2"));
    const { measures, predictions } = await evaluated(model, { given: "nothing" });
    expect(model.looks).toEqual([]);
    expect(model.asked.every(({ descriptions }) => descriptions === undefined)).toBe(true);
    const best = Object.keys(measures).filter((key) => key.startsWith("most frequent answer"));
    expect(best.length).toBe(Object.keys(measures).filter((key) => key.startsWith("accuracy")).length);
    expect(measures["most frequent answer: yes/no"]).toBeGreaterThanOrEqual(measures["accuracy: yes/no"]!);
    // "two" is what people wrote.
    for (const { answers, accuracy, answer } of predictions)
      expect(accuracy).toBe(answers[0] === "two" ? Number(answer === "2") : Number(answer === answers[0]));
    expect((await evaluated(new StandIn(() => "2"))).measures).not.toHaveProperty("most frequent answer");
  });

  it("describes the scene in the picture's place, the same way each time", async () => {
    const run = async () => {
      const model = new StandIn(() => "snow");
      await evaluated(model, { given: "description", split: "compositional" });
      expect(model.looks).toEqual([]);
      return model.asked.flatMap(({ descriptions, prompts }) =>
        prompts.map((prompt, i) => [prompt, descriptions![i]!] as const),
      );
    };
    const asked = await run();
    expect(await run()).toEqual(asked);
    const { scenes } = await jsonOf<{
      scenes: { background: string; objects: { kind: string; color: string }[] }[];
    }>(join(data, "scenes_compositional.json"));
    const described = [...new Set(asked.map(([, description]) => description))];
    expect(described).toHaveLength(2);
    for (const [i, { background, objects }] of scenes.entries()) {
      expect(described[i]).toContain(background);
      for (const { kind, color } of objects) expect(described[i]).toContain(`${color} ${kind}`);
      expect(described[i]!.endsWith(" .")).toBe(true);
    }
  });

  it("asks about a picture side by side, in whatever order the file has it", async () => {
    const folder = join(root, "mixed");
    await cp(data, folder, { recursive: true });
    const path = join(folder, "questions_test.json");
    const mixed = questions.toSorted((a, b) => (a.question_id % 6) - (b.question_id % 6));
    await writeFile(path, JSON.stringify({ questions: mixed }));
    const model = new StandIn(() => "yes");
    const { predictions } = await evaluated(model, { data: folder });
    expect(model.looks).toHaveLength(5);
    const say = (id: number): number => predictions.find(({ question_id }) => question_id === id)!.accuracy;
    const straight = (await evaluated(new StandIn(() => "yes"))).predictions;
    for (const { question_id: id, accuracy } of straight) expect(say(id)).toBe(accuracy);
  });
});

describe("a folder that does not fit", () => {
  /** The folder with one file changed. */
  const changed = async <T extends object>(file: string, change?: (json: T) => void): Promise<string> => {
    const folder = join(root, `changed-${file}-${Math.random()}`);
    await cp(data, folder, { recursive: true });
    const path = join(folder, file);
    if (change === undefined) await unlink(path);
    else {
      const json = await jsonOf<T>(path);
      change(json);
      await writeFile(path, JSON.stringify(json));
    }
    return folder;
  };
  const error = async (folder: string, options: Partial<VqaEvaluation> = {}): Promise<string> => {
    const problem: unknown = await evaluated(new StandIn(() => "yes"), { data: folder, ...options }).catch(
      (reason: unknown) => reason,
    );
    return problem instanceof Error ? problem.message : "no error";
  };

  it.each(["questions_test.json", "annotations_test.json", "captions_test.json"])(
    "names %s when it is missing",
    async (file) => {
      const folder = await changed(file);
      expect(await error(folder)).toContain(`${join(folder, file)}: this file does not exist`);
    },
  );

  it("needs only what is asked for", async () => {
    expect(await error(await changed("captions_test.json"), { given: "nothing" })).toBe("no error");
    expect(await error(await changed("scenes_test.json"))).toBe("no error");
    const folder = await changed("scenes_test.json");
    expect(await error(folder, { given: "description" })).toContain(
      "scenes_test.json: this file does not exist",
    );
    const gone = await changed("captions_test.json");
    expect(await error(gone, { given: "description" })).toBe("no error");
  });

  it("names pictures that are not there", async () => {
    const unlisted = await changed<{ images: object[] }>("captions_test.json", (json) =>
      json.images.splice(1, 1),
    );
    expect(await error(unlisted)).toMatch(
      /captions_test.json: 1 pictures have questions but are not listed under "images": 1$/,
    );
    const folder = await changed(join("images", "test", "000003.png"));
    expect(await error(folder)).toMatch(/1 of 5 pictures are not there: .*000003.png$/);
    // Nobody asks about it.
    expect(await error(folder, { limit: 6 })).toBe("no error");
    const undescribed = await changed<{ scenes: object[] }>("scenes_test.json", (json) =>
      json.scenes.splice(2, 1),
    );
    expect(await error(undescribed, { given: "description" })).toMatch(
      /1 pictures .* no scene to describe: 2$/,
    );
  });

  it("names questions and annotations that do not fit together", async () => {
    type File = { annotations: Annotation[] };
    const file = "annotations_test.json";
    const of = async (change: (list: Annotation[]) => void) =>
      error(await changed<File>(file, ({ annotations }) => change(annotations)));
    expect(await of((list) => list.splice(4, 1))).toMatch(
      /1 questions of .*questions_test.json are not there: 4$/,
    );
    expect(await of((list) => list.push({ ...list[0]!, question_id: 9999 }))).toMatch(/are not in .*: 9999$/);
    expect(await of((list) => (list[2]!.image_id = 4))).toMatch(/about another picture than in .*: 2$/);
    expect(await of((list) => list[5]!.answers.pop())).toMatch(/1 questions do not have 10 answers: 5$/);
    expect(await of((list) => list.push(list[3]!))).toMatch(/question 3 is there twice/);
    expect(await of((list) => (list[1]!.question_type = ""))).toMatch(
      /is not a VQAv2 file of annotations: annotations.1.question_type/,
    );
  });

  it("says that there is nothing to ask", async () => {
    const empty = await changed<{ questions: object[] }>(
      "questions_test.json",
      (json) => (json.questions = []),
    );
    expect(await error(empty)).toContain("the data set is empty");
  });
});

describe.each(["opt", "t5"])("blip2 evaluate vqa with a tiny %s", (family) => {
  let folder: string;
  beforeAll(async () => {
    // A description is hundreds of a tiny tokenizer's tokens.
    const positions = "language_model.model.decoder.embed_positions.weight";
    const table = float32Tensor(
      Float32Array.from({ length: 602 * 16 }, (_, i) => Math.sin(i * 1.7)),
      [602, 16],
    );
    folder = await (family === "t5"
      ? writeTinyT5(join(root, "t5"))
      : writeTinyModel(join(root, "opt"), {
          config: { text_config: { max_position_embeddings: 600 } },
          change: (tensors) => tensors.set(positions, table),
        }));
  });

  const evaluate = async (...words: string[]) => {
    const common = ["evaluate", "vqa", "--model", folder, "--data", data, "--threads", "1", "--json"];
    const { code, stdout, stderr } = await blip2([...common, ...words]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    return JSON.parse(stdout) as Record<string, number>;
  };

  it("asks in each form, and keeps what was said", { timeout: 120_000 }, async () => {
    const said: string[] = [];
    for (const given of ["picture", "nothing", "description"]) {
      const out = join(root, `${family}-${given}.jsonl`);
      const words = ["--given", given, "--limit", "7", "--beams", "2", "--out", out];
      const measures = await evaluate(...words);
      expect(measures).toMatchObject({ questions: 7, images: 2 });
      const text = await readFile(out, "utf8");
      said.push(text);
      const kept = text
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line) as { answer: string; accuracy: number; answers: string[] });
      expect(kept).toHaveLength(7);
      expect(Object.keys(kept[0]!)).toEqual([
        "question_id",
        "answer",
        "accuracy",
        "image_id",
        "question",
        "question_type",
        "answers",
      ]);
      for (const { answer, accuracy, answers } of kept) expect(accuracy).toBe(vqaAccuracy(answer, answers));
      const mean = kept.reduce((sum, { accuracy }) => sum + accuracy, 0) / kept.length;
      expect(measures["accuracy"]).toBeCloseTo(mean, 12);
    }
    expect(new Set(said).size).toBe(3);
    // The picture alone is the usual way.
    const out = join(root, `${family}-default.jsonl`);
    await evaluate("--limit", "7", "--beams", "2", "--split", "test", "--out", out);
    expect(await readFile(out, "utf8")).toBe(said[0]);
  });
});

it("refuses what does not fit the task, by name", async () => {
  const words = ["--model", "m", "--data", "d"];
  expect(
    await blip2(["evaluate", "caption", ...words, "--given", "nothing", "--prompt-format", "{}"]),
  ).toMatchObject({
    code: 2,
    stderr: "blip2: evaluate: --prompt-format does not apply to caption\n",
  });
  expect(await blip2(["evaluate", "vqa", ...words, "--towers", "t"])).toMatchObject({ code: 2 });
  expect((await blip2(["evaluate", "vqa", ...words, "--given", "sound"])).stderr).toContain(
    "--given must be one of picture, nothing, description",
  );
});
