/** In which order a language model meets the texts of its corpus: a function of seed and position. */
import { ShuffledPasses } from "../data/shuffle.js";
import type { DescribedScene } from "../data/text-corpus.js";
import { UserError } from "../errors.js";

interface OrderOptions {
  /** Where the texts come from, for errors. */
  readonly data: string;
  readonly seed: number;
  /** Types of question that few texts ask: every other text is one that does. */
  readonly focus: readonly string[];
  /** Over these first steps the texts grow: from the shortest quarter of the corpus to all of it. */
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
