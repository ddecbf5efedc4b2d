/** The one door to data: a place and the name of a split in, data sets out. Which files there are decides how they are read. */
import type { CaptionedPicture, Dataset } from "./dataset.js";
import { joinedByFile, readCaptionSet, withStatements, type CaptionNotices } from "./formats/coco.js";
import { readPicturesOf, readQuestionSet, type PictureQuestion } from "./formats/vqa.js";

/** A split of data at a place. Nothing is read before it is asked for. */
export interface DataSplit {
  /** Pictures with captions, each file once. Throws a `UserError` naming what is missing or malformed. */
  captions(options?: CaptionOptions): Promise<Dataset<CaptionedPicture>>;
  /** Questions about pictures, with people's answers. Throws a `UserError` alike. */
  questions(limit?: number): Promise<readonly PictureQuestion[]>;
  /** Paths of the pictures that these are about, by their id. Throws a `UserError` naming pictures that are not there. */
  picturesOf(questions: readonly PictureQuestion[]): Promise<ReadonlyMap<number, string>>;
}

export interface CaptionOptions extends CaptionNotices {
  /** Sentences of one fact each are wanted beside the captions. Default: false. */
  readonly statements?: boolean;
}

/**
 * Opens a folder with COCO captions (`captions_<split>.json`) or VQAv2 questions (`questions_<split>.json` with
 * `annotations_<split>.json`). A split may have any name that is a part of a file's name.
 */
export function openData(path: string, split: string): DataSplit {
  return {
    captions: async ({ statements = false, ...notices } = {}) => {
      const captioned = await readCaptionSet(path, split, notices);
      const told = statements ? await withStatements(path, split, captioned) : captioned;
      return joinedByFile(told, notices);
    },
    questions: async (limit) => (await readQuestionSet(path, split)).slice(0, limit),
    picturesOf: (questions) => readPicturesOf(questions, path, split),
  };
}
