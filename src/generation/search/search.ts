/** What every search has: its settings, and the face by which the loop of generation runs it. */
import { UserError } from "../../errors.js";
import { logSoftmax } from "./logits.js";

/** How tokens are drawn. */
export interface Sampling {
  /** Above 0; 1 for the model's own probabilities. */
  readonly temperature: number;
  /** Only the so many most likely ids; 0 for all. */
  readonly topK: number;
  /** Only the most likely ids that together have this probability; 1 for all. */
  readonly topP: number;
  readonly seed: number;
}

/** How contrastive search weighs. */
export interface Contrastive {
  /** The weight of the resemblance, from 0 (greedy search) to 1. */
  readonly penaltyAlpha: number;
  /** How many tokens are tried. */
  readonly topK: number;
}

export interface SearchSettings {
  readonly maxNewTokens: number;
  /** So many new tokens come before the end token is possible. */
  readonly minNewTokens: number;
  /** 1: greedy search. */
  readonly numBeams: number;
  /** At most `numBeams`. */
  readonly numReturnSequences: number;
  /** Power of the length by which a finished beam's log-probability is divided; above 0 favours long texts. */
  readonly lengthPenalty: number;
  /**
   * When beam search may stop with `numBeams` finished sequences: true at once; false when the best running one,
   * at its present length, is not better than the worst finished; "never" when it cannot become better.
   */
  readonly earlyStopping: boolean | "never";
  /** 1 for none. */
  readonly repetitionPenalty: number;
  /** No sequence of so many ids comes twice, the prompt's counting too; 0 for no such rule. */
  readonly noRepeatNgramSize?: number | undefined;
  /** Sequences of ids that do not occur. */
  readonly forbidden?: readonly (readonly number[])[] | undefined;
  /** Ids that do not begin a text. */
  readonly notFirst?: readonly number[] | undefined;
  /** The id that every text begins with. */
  readonly first?: number | undefined;
  /** A text that comes to `maxNewTokens` ends with one of these. */
  readonly last?: readonly number[] | undefined;
  /** Tokens are drawn at random; with several beams, the beams' continuations are. */
  readonly sampling?: Sampling | undefined;
  /** With one beam: contrastive search. */
  readonly contrastive?: Contrastive | undefined;
  /** Each of these ends a sequence. */
  readonly endIds: readonly number[];
  /** Whether new ids end a sequence for another reason, such as the text that they spell. */
  readonly isStopped?: ((newIds: readonly number[]) => boolean) | undefined;
}

export interface GeneratedSequence {
  /** New ids, the end token included if there is one. */
  readonly tokenIds: readonly number[];
  /** What beam search ranks by; in other searches the log-probability. */
  readonly score: number;
  /** The sum of the model's own log-probabilities of `tokenIds`. */
  readonly logProbability: number;
  /** One for each of `tokenIds`. */
  readonly tokenLogProbabilities: readonly number[];
}

/** A sequence that goes on: which of the last ones it continues, by which token. */
export interface Continuation {
  readonly parent: number;
  readonly token: number;
}

/** The search for one prompt. */
export interface Search {
  /**
   * Takes the logits [V] of each running sequence, and says what runs next: nothing when the search is over.
   * Contrastive search takes the states [E] of each one's new positions too.
   */
  next(
    logits: readonly Float32Array[],
    states?: readonly (readonly Float32Array[])[],
  ): readonly Continuation[];
  /** Best first. Of any search but beam search, also what there is before its end. */
  readonly results: readonly GeneratedSequence[];
}

/** Why a search cannot go on from these logits. */
export function noToken(logits: Float32Array): Error {
  if (!logits.some(Number.isFinite)) return notNumbers();
  return new UserError(
    "generation: noRepeatNgramSize, badWords, minNewTokens and what generation_config.json forbids together leave no token that may " +
      "come next; allow more",
  );
}

/** log(softmax(logits)) of the model's own logits [V]. Throws a `UserError` if one of them is not a number. */
export function ownLogProbabilities(logits: Float32Array): Float32Array {
  const result = logSoftmax(logits);
  // One that is not a number makes all of them so.
  if (Number.isNaN(result[0])) throw notNumbers();
  return result;
}

const notNumbers = (): UserError =>
  new UserError(
    "generation: the logits of the model's language model are not numbers: its weights hold values that are not finite, or too large " +
      "ones; fetch or convert the model again",
  );
