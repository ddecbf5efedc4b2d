/**
 * Visual question answering, zero-shot: each question of a data set is put to a model that was not trained on any, and
 * its words are judged by people's. Two comparisons tell where an answer comes from: what the same language model
 * says without the picture (its prior), and with a written description of what the picture shows (the ceiling that a soft
 * prompt could reach).
 */
import type { PictureQuestion } from "../data/formats/vqa.js";
import { openData } from "../data/open-data.js";
import { answerSettings, questionPrompt, type Asked } from "../generation/questions.js";
import type { GenerateSettings } from "../generation/options.js";
import type { TrainingHooks } from "../training/trainer.js";
import { descriptionsOf, type Given } from "./given.js";
import { accuracies, constantAccuracies, vqaAccuracy } from "../metrics/vqa-accuracy.js";

type Answers = Promise<readonly { readonly text: string }[]>;

/** What answers: `Blip2`, or a test's stand-in. */
export interface Answerer<View extends AsyncDisposable = AsyncDisposable> extends Asked {
  look(image: string, options: { readonly signal?: AbortSignal | undefined }): Promise<View>;
  generateBatch(
    options: GenerateSettings & {
      readonly images: readonly NoInfer<View>[];
      readonly prompts: readonly string[];
    },
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
  /** What stands before the question. Default: the picture. A description needs `scenes_<split>.json`. */
  readonly given?: Given | undefined;
  /** With `{}` where a question goes. Default: the model's own. */
  readonly promptFormat?: string | undefined;
  /** See `GenerateSettings`. Default: the model's own. */
  readonly answerAfter?: string | undefined;
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

/** A way of asking; it may hold what has to be freed at the end. */
interface Asking extends AsyncDisposable {
  ask(part: readonly PictureQuestion[], prompts: readonly string[], settings: GenerateSettings): Answers;
}

/** Asks about pictures. Each is looked at once, if questions about it stand side by side. */
class AskingPictures<View extends AsyncDisposable> implements Asking {
  private views = new Map<number, View>();

  /** @param files by picture id */
  constructor(
    private readonly model: Answerer<View>,
    private readonly files: ReadonlyMap<number | string, string>,
  ) {}

  async ask(
    part: readonly PictureQuestion[],
    prompts: readonly string[],
    settings: GenerateSettings,
  ): Answers {
    const wanted = new Set(part.map(({ imageId }) => imageId));
    for (const [id, view] of this.views) {
      if (wanted.has(id)) continue;
      this.views.delete(id);
      await view[Symbol.asyncDispose]();
    }
    for (const id of wanted) {
      if (this.views.has(id)) continue;
      this.views.set(id, await this.model.look(this.files.get(id)!, { signal: settings.signal }));
    }
    const images = part.map(({ imageId }) => this.views.get(imageId)!);
    return this.model.generateBatch({ ...settings, images, prompts });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const view of this.views.values()) await view[Symbol.asyncDispose]();
    this.views.clear();
  }
}

/** Asks without pictures. */
function askingText(
  model: Pick<Answerer, "generateWithoutPicture">,
  descriptions?: ReadonlyMap<number | string, string>,
): Asking {
  return {
    ask: (part, prompts, settings) =>
      model.generateWithoutPicture({
        ...settings,
        prompts,
        descriptions: descriptions && part.map(({ imageId }) => descriptions.get(imageId)!),
      }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** Questions about a picture side by side, pictures in the order in which they come first. */
function byPicture(questions: readonly PictureQuestion[]): readonly PictureQuestion[] {
  const pictures = new Map<number, PictureQuestion[]>(questions.map(({ imageId }) => [imageId, []]));
  for (const question of questions) pictures.get(question.imageId)!.push(question);
  return [...pictures.values()].flat();
}

/**
 * The measures of `accuracies`, with `given: "nothing"` those of `constantAccuracies` too, and how many `questions` about how many
 * `images` were asked. See `openData` for errors.
 */
export async function evaluateVqa<View extends AsyncDisposable>(
  model: Answerer<View>,
  options: VqaEvaluation,
): Promise<{ readonly measures: Record<string, number>; readonly predictions: readonly VqaPrediction[] }> {
  const { data, split, limit, beams, given = "picture", signal, onProgress } = options;
  const { promptFormat = model.questionFormat, answerAfter } = options;
  const asked = openData(data, split);
  const questions = byPicture(await asked.questions(limit));
  const usual = answerSettings(model, { answerAfter });
  const settings = { ...usual, ...(beams !== undefined && { numBeams: beams }), signal };
  const askings: { readonly [G in Given]: () => Promise<Asking> } = {
    picture: async () => new AskingPictures(model, await asked.picturesOf(questions)),
    nothing: () => Promise.resolve(askingText(model)),
    description: async () =>
      askingText(
        model,
        await descriptionsOf(
          questions.map(({ imageId }) => imageId),
          data,
          split,
        ),
      ),
  };
  await using asking = await askings[given]();
  const predictions: VqaPrediction[] = [];
  for (let from = 0; from < questions.length; from += questionsAtOnce) {
    const part = questions.slice(from, from + questionsAtOnce);
    const prompts = part.map(({ question }) => questionPrompt(promptFormat, question));
    const found = await asking.ask(part, prompts, settings);
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
