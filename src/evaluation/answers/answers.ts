/** The share of questions about written descriptions that a language model answers right. */
import type { DescribedScene } from "../../data/text-corpus.js";
import type { TrainingHooks } from "../../training/trainer.js";

/** What a measurement tells on the way. */
export interface AnswerHooks extends TrainingHooks {
  readonly onAnswer?: (answered: AnsweredQuestion) => void;
}

/** A question about a described scene. */
export interface AskedQuestion {
  readonly description: string;
  readonly question: string;
  /** The right one. */
  readonly answer: string;
  readonly type: string;
}

export interface AnsweredQuestion extends AskedQuestion {
  /** Whether the model gives it. */
  readonly right: boolean;
}

export type AnswerMeasure = (hooks?: AnswerHooks) => Promise<Record<string, number>>;

const questionsAtOnce = 100;

/**
 * Overall and by type. An answer is right if every token of it, the end token included, is the model's first choice
 * given those before it, which is when greedy decoding gives the answer.
 *
 * @param check says of each question whether it is answered right, as numbers 0 and 1.
 */
export function answerMeasureOf(
  test: readonly DescribedScene[],
  check: (
    questions: readonly AskedQuestion[],
    signal: AbortSignal | undefined,
  ) => Promise<ArrayLike<number | bigint>>,
): AnswerMeasure {
  const asked = test.flatMap(({ description, questions }) =>
    questions.map((question): AskedQuestion => ({ description, ...question })),
  );
  return async ({ signal, onProgress, onAnswer } = {}) => {
    const tally = new Map<string, { right: number; count: number }>();
    for (let from = 0; from < asked.length; from += questionsAtOnce) {
      const part = asked.slice(from, from + questionsAtOnce);
      const right = await check(part, signal);
      onProgress?.({ step: from + part.length, total: asked.length, detail: "questions" });
      for (const [i, question] of part.entries()) {
        const isRight = Number(right[i]) === 1;
        onAnswer?.({ ...question, right: isRight });
        const entry = tally.get(question.type) ?? { right: 0, count: 0 };
        tally.set(question.type, { right: entry.right + Number(isRight), count: entry.count + 1 });
      }
    }
    const share = ({ right, count }: { right: number; count: number }): number => right / count;
    const all = [...tally.values()].reduce((a, b) => ({
      right: a.right + b.right,
      count: a.count + b.count,
    }));
    return {
      answers: share(all),
      ...Object.fromEntries([...tally].sort().map(([type, entry]) => [`answers: ${type}`, share(entry)])),
    };
  };
}
