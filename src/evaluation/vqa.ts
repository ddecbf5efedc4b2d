/**
 * Visual question answering, zero-shot: each question of a data set is put to a model that was not trained on any, and
 * its words are judged by people's. Two comparisons tell where an answer comes from: what the same language model
 * says without the picture (its prior), and with a written description of what the picture shows (the ceiling that a soft
 * prompt could reach).
 */
import { readPicturesOf, readQuestionSet, type PictureQuestion } from "../data/question-set.js";
import { Random } from "../data/random.js";
import { describe, type Scene } from "../data/scenes/index.js";
import { readScenes } from "../data/scenes/read.js";
import { UserError } from "../errors.js";
import { answerSettings, questionFormat, questionPrompt } from "../generation/questions.js";
import type { GenerateSettings } from "../generation/options.js";
import type { TrainingHooks } from "../training/trainer.js";
import { accuracies, constantAccuracies, vqaAccuracy } from "./vqa-accuracy.js";

/** What stands before the question. */
export const givens = ["picture", "nothing", "description"] as const;
export type Given = (typeof givens)[number];

type Answers = Promise<readonly { readonly text: string }[]>;

/** What answers: `Blip2`, or a test's stand-in. */
export interface Answerer<View extends AsyncDisposable = AsyncDisposable> {
  readonly config: { readonly text_config: { readonly model_type: string } };
  look(image: string, options: { readonly signal?: AbortSignal | undefined }): Promise<View>;
  generateBatch(
    options: GenerateSettings & { readonly images: readonly NoInfer<View>[]; readonly prompts: readonly string[] },
  ): Answers;
  generateWithoutPicture(
    options: GenerateSettings & {
      readonly prompts: readonly string[];
      readonly descriptions?: readonly string[] | undefined;
    },
  ): Answers;
}

export interface VqaEvaluation extends Pick<TrainingHooks, "signal" | "onProgress"> {
  /** A folder made by `blip2 scenes`, or one with VQAv2-style files of the same names. */
  readonly data: string;
  readonly split: string;
  /** Only the first questions of the split. */
  readonly limit?: number | undefined;
  /** Default: that of LAVIS for short answers. */
  readonly beams?: number | undefined;
  /** Default: the picture. A description needs `scenes_<split>.json`. */
  readonly given?: Given | undefined;
  /** With `{}` where a question goes. Default: the paper's for this kind of language model. */
  readonly promptFormat?: string | undefined;
}

/** A question with what the model said; the first two keys are those of the VQA evaluation's files of results. */
export interface VqaPrediction {
  readonly question_id: number;
  readonly answer: string;
  readonly accuracy: number;
  readonly image_id: number;
  readonly question: string;
  readonly question_type: string;
  /** What people answered. */
  readonly answers: readonly string[];
}

const questionsAtOnce = 16;

type Ask = (
  part: readonly PictureQuestion[],
  prompts: readonly string[],
  settings: GenerateSettings,
) => Answers;

/** Asks about pictures; each is looked at once, while questions about it stand side by side. */
async function askingPictures<View extends AsyncDisposable>(
  model: Answerer<View>,
  questions: readonly PictureQuestion[],
  { data, split }: VqaEvaluation,
): Promise<Ask> {
  const files = await readPicturesOf(questions, data, split);
  let views = new Map<number, View>();
  return async (part, prompts, settings) => {
    const { signal } = settings;
    const seen = new Map<number, View>();
    for (const { imageId } of part) {
      if (!seen.has(imageId))
        seen.set(imageId, views.get(imageId) ?? (await model.look(files.get(imageId)!, { signal })));
    }
    for (const [id, view] of views) if (!seen.has(id)) await view[Symbol.asyncDispose]();
    views = seen;
    return model.generateBatch({
      ...settings,
      prompts,
      images: part.map(({ imageId }) => seen.get(imageId)!),
    });
  };
}

/** Asks about written descriptions, closed by a stop as in the text that the scenes' language models learn from. */
async function askingDescriptions(
  model: Answerer,
  questions: readonly PictureQuestion[],
  { data, split }: VqaEvaluation,
): Promise<Ask> {
  const scenes = await readScenes(data, split);
  const missing = new Set(questions.map(({ imageId }) => imageId).filter((id) => !scenes.has(id)));
  if (missing.size > 0) {
    const some = [...missing].slice(0, 5).join(", ");
    throw new UserError(
      `${data}/scenes_${split}.json: ${missing.size} pictures have questions but no scene to describe: ${some}`,
    );
  }
  const descriptions = new Map(
    [...scenes].map(([id, scene]) => {
      // Records hold plain strings; describing them writes them down and nothing more.
      const description = describe(
        scene as Pick<Scene, "background" | "objects">,
        new Random("vqa", split, id),
      );
      return [id, `${description} .`];
    }),
  );
  return (part, prompts, settings) =>
    model.generateWithoutPicture({
      ...settings,
      prompts,
      descriptions: part.map(({ imageId }) => descriptions.get(imageId)!),
    });
}

/** Questions about a picture side by side, pictures in the order in which they come first. */
function byPicture(questions: readonly PictureQuestion[]): readonly PictureQuestion[] {
  const pictures = new Map<number, PictureQuestion[]>(questions.map(({ imageId }) => [imageId, []]));
  for (const question of questions) pictures.get(question.imageId)!.push(question);
  return [...pictures.values()].flat();
}

/**
 * The measures of `accuracies`, with `given: "nothing"` those of `constantAccuracies` too, and how many `questions` about how many
 * `images` were asked. See `readQuestionSet` and `readPicturesOf` for errors.
 */
export async function evaluateVqa<View extends AsyncDisposable>(
  model: Answerer<View>,
  options: VqaEvaluation,
): Promise<{ readonly measures: Record<string, number>; readonly predictions: readonly VqaPrediction[] }> {
  const { data, split, limit, beams, given = "picture", signal, onProgress } = options;
  const languageModel = model.config.text_config.model_type;
  const { promptFormat = questionFormat(languageModel) } = options;
  const questions = byPicture((await readQuestionSet(data, split)).slice(0, limit));
  const usual = answerSettings(languageModel);
  const settings = { ...usual, ...(beams !== undefined && { numBeams: beams }), signal };
  const askings: { readonly [G in Given]: () => Promise<Ask> } = {
    picture: () => askingPictures(model, questions, options),
    nothing: () =>
      Promise.resolve((_, prompts, asked) => model.generateWithoutPicture({ ...asked, prompts })),
    description: () => askingDescriptions(model, questions, options),
  };
  const ask = await askings[given]();
  const predictions: VqaPrediction[] = [];
  for (let from = 0; from < questions.length; from += questionsAtOnce) {
    const part = questions.slice(from, from + questionsAtOnce);
    const prompts = part.map(({ question }) => questionPrompt(promptFormat, question));
    const found = await ask(part, prompts, settings);
    for (const [i, { id, imageId, question, type, answers }] of part.entries()) {
      const answer = found[i]!.text;
      predictions.push({
        question_id: id,
        answer,
        accuracy: vqaAccuracy(answer, answers),
        image_id: imageId,
        question,
        question_type: type,
        answers,
      });
    }
    onProgress?.({ step: from + part.length, total: questions.length, detail: "questions" });
  }
  const judged = predictions.map((prediction) => ({
    type: prediction.question_type,
    accuracy: prediction.accuracy,
    people: prediction.answers,
  }));
  return {
    measures: {
      ...accuracies(judged),
      ...(given === "nothing" && constantAccuracies(judged)),
      questions: questions.length,
      images: new Set(questions.map(({ imageId }) => imageId)).size,
    },
    predictions,
  };
}
