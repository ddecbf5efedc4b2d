/** Described scenes as pairs of texts for an encoder-decoder language model: what its encoder reads, and what its decoder says. */
import type { DescribedScene } from "../../data/text-corpus.js";
import { ignoreIndex } from "../../objectives/cross-entropy.js";
import type { DecoderIds } from "../../objectives/text-to-text.js";
import type { Random } from "../../random.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import { clozeOf, dialogueOf, type Cloze } from "../../training/cloze.js";
import { RowTokens } from "../../training/row-tokens.js";

/** Of a row; `recipes/scenes-parts/t5.ts` says what each is. */
export const forms = ["dialogues", "blanks", "questions", "captions"] as const;
export type Form = (typeof forms)[number];

/** Asks in the form that the paper has for FLAN-T5. */
export const shortAnswerPrompt = (question: string): string => `Question: ${question} Short answer:`;

/** Token ids, each with the end token. */
export interface PairRow {
  /** For the encoder. */
  readonly text: readonly number[];
  /** How many of its tokens, from the first, are the description. */
  readonly described: number;
  /** From the decoder; `ignoreIndex` where nothing is learnt. */
  readonly labels: readonly number[];
  /** What the decoder reads, one place later; the labels where absent. */
  readonly said?: readonly number[];
}

/** How much of a text a training row holds, and in which way. */
export interface PairShares {
  readonly mostBlanks: number;
  readonly bareShare: number;
  readonly splitShare: number;
  readonly echoShare: number;
  readonly statementShare: number;
  readonly typeShares: Readonly<Record<string, number>>;
}

/** Padding starts the decoder, as in T5. */
export function pairIds(tokenizer: TextTokenizer): DecoderIds & { readonly end: number } {
  const pad = tokenizer.specialIds.pad!;
  return { pad, start: pad, end: tokenizer.specialIds.eos! };
}

/** Writes described scenes as pairs of texts. */
export class PairWriter {
  readonly ids: DecoderIds & { readonly end: number };
  private readonly sentinels: readonly number[];
  private readonly tokens: RowTokens;

  /** @param most tokens of a row with several answers, on the side that holds them. */
  constructor(
    tokenizer: TextTokenizer,
    private readonly most = Infinity,
  ) {
    this.ids = pairIds(tokenizer);
    this.tokens = new RowTokens(tokenizer, this.ids.end);
    this.sentinels = this.tokens.sentinels;
  }

  pair(form: Form, scene: DescribedScene, random: Random, shares: PairShares): PairRow {
    switch (form) {
      case "dialogues":
        return this.dialogue(scene, random, shares);
      case "blanks":
        return this.blanks(scene, random, shares);
      case "questions": {
        const { question, answer } = random.pick(scene.questions);
        const asked = { before: shortAnswerPrompt(question), missing: answer };
        if (random.chance(shares.splitShare)) return this.behind(scene.description, asked, random);
        if (random.chance(shares.echoShare)) return this.echo(scene.description, question, answer);
        return this.behind(scene.description, asked);
      }
      case "captions":
        return this.caption(scene, random);
    }
  }

  /** A question behind a description, and its answer. */
  question(description: string, question: string, answer: string): PairRow {
    return this.behind(description, { before: shortAnswerPrompt(question), missing: answer });
  }

  private echo(description: string, question: string, answer: string): PairRow {
    const answered = `${shortAnswerPrompt(question)} ${answer}`.slice("Question: ".length);
    return this.behind(description, { before: `Question: ${question}`, missing: answered });
  }

  private caption({ description, captions, statements }: DescribedScene, random: Random): PairRow {
    if (statements.length > 0 && random.chance(0.3))
      return this.behind(description, clozeOf(random.pick(statements)));
    const words = random.pick(captions).split(" ");
    const middle = Math.floor(words.length / 2);
    const cut = middle > 0 && random.chance(0.5) ? random.between(1, middle) : 0;
    return this.behind(description, {
      before: words.slice(0, cut).join(" "),
      missing: words.slice(cut).join(" "),
    });
  }

  /** @param split draws up to where the encoder reads what comes before; to its end where absent. */
  private behind(description: string, { before, missing }: Cloze, split?: Random): PairRow {
    const words = before === "" ? [] : this.tokens.words(before);
    const cut = split?.between(0, words.length) ?? words.length;
    const answer = [...this.tokens.words(missing), this.ids.end];
    const given = words.slice(cut);
    const described = this.tokens.words(`${description} .`);
    return {
      text: [...described, ...words.slice(0, cut), this.ids.end],
      described: described.length,
      labels: [...given.map(() => ignoreIndex), ...answer],
      said: [...given, ...answer],
    };
  }

  /** As many of the questions and statements as fit, in random order; what they are about is read, not learnt. */
  private dialogue(
    { description, questions, statements }: DescribedScene,
    random: Random,
    shares: PairShares,
  ): PairRow {
    const asked = clozes(questions, statements, random, shares);
    const described = this.tokens.words(`${description} .`);
    const text = [...described, this.ids.end];
    return { text, described: described.length, ...dialogueOf(asked, this.tokens, this.most) };
  }

  /** Some of the questions and statements, as far as they fit, in random order. */
  private blanks(
    { description, questions, statements }: DescribedScene,
    random: Random,
    shares: PairShares,
  ): PairRow {
    const described = this.tokens.words(`${description} .`);
    const text = [...described];
    const labels: number[] = [];
    let next = 0;
    const count = random.between(1, shares.mostBlanks);
    for (const { before, missing } of clozes(questions, statements, random, shares)) {
      const words = this.tokens.words(before);
      if (next === count || text.length + words.length + 2 > this.most) continue;
      const sentinel = this.sentinels[next++]!;
      text.push(...words, sentinel);
      labels.push(sentinel, ...this.tokens.words(missing));
    }
    return { text: [...text, this.ids.end], described: described.length, labels: [...labels, this.ids.end] };
  }
}

/** Questions and statements of a text in their shares, in random order, with what is missing in each. */
function clozes(
  questions: DescribedScene["questions"],
  statements: readonly string[],
  random: Random,
  { bareShare, statementShare, typeShares }: PairShares,
): Cloze[] {
  const asked = questions
    .filter(({ type }) => random.chance(typeShares[type] ?? 1))
    .map(({ question, answer }): Cloze => {
      const isBare = random.chance(bareShare);
      return {
        before: isBare ? question.replace(/\?$/, "") : shortAnswerPrompt(question),
        missing: answer,
      };
    });
  const stated = statements.filter(() => random.chance(statementShare)).map(clozeOf);
  return random.shuffle([...asked, ...stated]);
}
