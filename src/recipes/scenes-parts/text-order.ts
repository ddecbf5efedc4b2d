/** In which order a language model meets the texts of its corpus: a function of seed and position. */
import { z } from "zod";
import { ShuffledPasses } from "../../data/shuffle.js";
import type { DescribedScene } from "../../data/text-corpus.js";
import type { Device } from "../../engine/index.js";
import { UserError } from "../../errors.js";
import type { TextTokenizer } from "../../text/tokenizer.js";

/** The keys of every training on texts. */
export const textKeys = {
  /** Share of the questions of a type that are asked; all of a type that is not named. */
  typeShares: z.record(z.string(), z.number().min(0).max(1)).default({}),
  /** Types of question that few texts ask: every other row is made of one that does. */
  focus: z.array(z.string()).default([]),
  /**
   * Over these first steps the descriptions grow: from the shortest quarter of the corpus to all of it. Looking something
   * up is found far sooner where there is little to look in.
   */
  curriculumSteps: z.int().nonnegative().default(0),
  /** Folder of an earlier run of the same sizes, or of a model, whose weights this one starts from. */
  start: z.string().optional(),
} as const;

/** What a training on texts works with. */
export interface TextSetup<Config> {
  readonly device: Device;
  readonly config: Config;
  readonly tokenizer: TextTokenizer;
  readonly train: readonly DescribedScene[];
  readonly test: readonly DescribedScene[];
}

interface OrderOptions {
  /** Where the texts come from, for errors. */
  readonly data: string;
  readonly seed: number;
  readonly focus: readonly string[];
  readonly curriculumSteps: number;
}

export class TextOrder {
  private readonly passes: ShuffledPasses;
  private readonly byLength: readonly DescribedScene[];
  private readonly focused: readonly DescribedScene[];

  /** Throws a `UserError` if no text asks what `focus` names. */
  constructor(
    texts: readonly DescribedScene[],
    private readonly options: OrderOptions,
  ) {
    const { data, seed, focus } = options;
    this.passes = new ShuffledPasses(texts.length, seed);
    this.byLength = texts.toSorted((a, b) => a.description.length - b.description.length);
    this.focused = this.byLength.filter(({ questions }) =>
      questions.some(({ type }) => focus.includes(type)),
    );
    if (focus.length > 0 && this.focused.length === 0)
      throw new UserError(`${data}: no training text asks a question of type ${focus.join(", ")}`);
  }

  /** The text at a position of the endless sequence of samples, met in step `step`. */
  at(position: number, step: number): DescribedScene {
    const { curriculumSteps } = this.options;
    const share = curriculumSteps === 0 ? 1 : Math.min(1, 0.25 + (0.75 * step) / curriculumSteps);
    const { item } = this.passes.at(position);
    const texts = this.focused.length > 0 && position % 2 === 1 ? this.focused : this.byLength;
    return texts[Math.floor(item * share * (texts.length / this.byLength.length))]!;
  }
}
