/** How questions are put to a language model, and how LAVIS searches for their answers. */
import { UserError } from "../errors.js";
import { quoted } from "../quoted.js";
import { familyOf, type FamilyName } from "../models/language/families.js";
import type { GenerateSettings } from "./options.js";

/** A question with its answer. */
export interface Turn {
  readonly question: string;
  readonly answer: string;
}

/** Of a model, what decides how it is asked; see `Blip2`. */
export interface Asked {
  readonly config: { readonly text_config: { readonly model_type: FamilyName } };
  readonly questionFormat: string;
  readonly answerAfter: string | undefined;
}

/**
 * LAVIS's settings for short answers (`predict_answers`): beams that lean to few words. What stands before an answer has room
 * besides.
 */
export function answerSettings(
  model: Asked,
  { answerAfter = model.answerAfter }: Pick<GenerateSettings, "answerAfter"> = {},
): GenerateSettings {
  return {
    answerAfter,
    maxNewTokens: answerAfter === undefined ? 10 : 50,
    minNewTokens: 0,
    numBeams: 5,
    lengthPenalty: familyOf(model.config.text_config).answerLengthPenalty,
  };
}

/** The prompt of a question, behind what was said before. Throws a `UserError` unless `format` has one `{}`. */
export function questionPrompt(format: string, question: string, before: readonly Turn[] = []): string {
  const [start, end, ...rest] = format.split("{}");
  if (end === undefined || rest.length > 0) {
    throw new UserError(
      `the format of a question is ${quoted(format)}; it needs {} once, where the question goes`,
    );
  }
  const asked = (text: string): string => `${start}${text.trim()}${end}`;
  const turns = before.map((turn) => `${asked(turn.question)} ${turn.answer.replace(/[\s.]+$/, "")}.`);
  return [...turns, asked(question)].join(" ");
}
