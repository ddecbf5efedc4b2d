/** Endless shuffled passes over a data set, as a function of position: what makes a loader resumable. */
import { Random } from "../random.js";

/** Items in shuffled passes: position `k` of the endless sequence has one item, whoever asks and when. */
export class ShuffledPasses {
  private pass = -1;
  private order: readonly number[] = [];

  private readonly used: number;

  /** @param wholes a pass has a multiple of so many items; which ones are left out of it is drawn anew each time */
  constructor(
    private readonly count: number,
    private readonly seed: number,
    wholes = 1,
  ) {
    this.used = Math.max(1, Math.floor(count / wholes)) * Math.min(wholes, count);
  }

  /** The item at `position` and the pass that it belongs to. */
  at(position: number): { readonly item: number; readonly pass: number } {
    const pass = Math.floor(position / this.used);
    if (pass !== this.pass) {
      const items = Array.from({ length: this.count }, (_, item) => item);
      this.order = new Random("pass", this.seed, pass).shuffle(items);
      this.pass = pass;
    }
    return { item: this.order[position % this.used]!, pass };
  }
}
