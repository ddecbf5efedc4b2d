/** Described scenes as rows for a decoder-only language model: a description, then what is asked and told of it. */
import type { DescribedScene } from "../../data/text-corpus.js";
import { ignoreIndex } from "../../objectives/cross-entropy.js";
import type { Random } from "../../random.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import { RowTokens } from "../../training/row-tokens.js";
import type { TokenRow } from "../../training/token-rows.js";

/** Asks in the form that published BLIP-2 prompts have. */
const questionPrompt = (question: string): string => `Question: ${question} Answer:`;

/** The token that ends a caption or an answer, as in published BLIP-2 with OPT. */
export function newlineId(tokenizer: TextTokenizer): number {
  return tokenizer.encode("\n", { addSpecialTokens: false }).at(-1)!;
}

/** How much of a text a training row holds. */
export interface SequenceShares {
  readonly echoShare: number;
  readonly captionShare: number;
  readonly statementShare: number;
  readonly bareShare: number;
  readonly typeShares: Readonly<Record<string, number>>;
}

/** Writes described scenes as token rows. */
export class SequenceWriter {
  private readonly tokens: RowTokens;
  readonly start: number;
  readonly pad: number;

  constructor(tokenizer: TextTokenizer) {
    this.tokens = new RowTokens(tokenizer, newlineId(tokenizer));
    this.pad = tokenizer.specialIds.pad!;
    this.start = tokenizer.idOf("</s>");
  }

  /** A description is closed by a stop, so that each of its parts has an end. */
  private description(description: string): readonly number[] {
    return this.tokens.words(`${description} .`);
  }

  /** The description and the start token, in one of the two orders. */
  private opening(description: string, random: Random): number[] {
    const ids = this.description(description);
    return random.chance(0.7) ? [...ids, this.start] : [this.start, ...ids, this.tokens.end];
  }

  /**
   * A training row: a description, perhaps the same again, then a caption, statements and questions in random order, as far
   * as they fit into `most` tokens.
   */
  sequence(
    { description, captions, questions, statements }: DescribedScene,
    random: Random,
    shares: SequenceShares,
    most: number,
  ): TokenRow {
    const ids = this.opening(description, random);
    const labels = ids.map(() => ignoreIndex);
    const append = (prompt: readonly number[], answer: readonly number[]): void => {
      if (ids.length + prompt.length + answer.length + 1 > most) return;
      ids.push(...prompt, ...answer, this.tokens.end);
      labels.push(...prompt.map(() => ignoreIndex), ...answer, this.tokens.end);
    };
    const isAsked = (share: number): boolean => share === 1 || (share > 0 && random.chance(share));
    const chosen = questions.filter(({ type }) => isAsked(shares.typeShares[type] ?? 1));
    const asked = chosen.map(({ question, answer }) => {
      const prompt = random.chance(shares.bareShare) ? question.replace(/\?$/, "") : questionPrompt(question);
      return () => append(this.tokens.words(prompt), this.tokens.words(answer));
    });
    const told = [
      ...[random.pick(captions)].filter(() => isAsked(shares.captionShare)),
      ...statements.filter(() => isAsked(shares.statementShare)),
    ].map((text) => () => append([], this.tokens.words(text)));
    const echoed = random.chance(shares.echoShare) ? [() => append([], this.description(description))] : [];
    for (const write of [...echoed, ...random.shuffle([...asked, ...told])]) write();
    return { ids, labels };
  }

  /** A test row: a description and one question, with labels on the answer. */
  question(description: string, question: string, answer: string): TokenRow {
    const prompt = [
      ...this.description(description),
      this.start,
      ...this.tokens.words(questionPrompt(question)),
    ];
    const reply = [...this.tokens.words(answer), this.tokens.end];
    return { ids: [...prompt, ...reply], labels: [...prompt.map(() => ignoreIndex), ...reply] };
  }
}
