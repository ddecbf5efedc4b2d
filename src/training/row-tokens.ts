/** Token ids of the texts that training rows are made of, for all who write such rows. */
import { sentinelTokens } from "../text/build-bpe.js";
import type { TextTokenizer } from "../text/tokenizer.js";

/** Short texts repeat, so they are remembered, so many of them. */
const mostRemembered = 50_000;

export class RowTokens {
  private readonly known = new Map<string, readonly number[]>();

  /** @param end closes what is said. */
  constructor(
    private readonly tokenizer: TextTokenizer,
    readonly end: number,
  ) {}

  /** T5's marks of what is missing, as far as the tokenizer has them. */
  get sentinels(): readonly number[] {
    return sentinelTokens
      .filter((token) => this.tokenizer.has(token))
      .map((token) => this.tokenizer.idOf(token));
  }

  /** Without special tokens. */
  words(text: string): readonly number[] {
    const found = this.known.get(text);
    if (found !== undefined) return found;
    const ids = this.tokenizer.encode(text, { addSpecialTokens: false });
    if (this.known.size < mostRemembered) this.known.set(text, ids);
    return ids;
  }

  /** Ids whose last is the end token, cut to `most` if they are more: they lose their last words, not their end. */
  cut(ids: readonly number[], most: number): readonly number[] {
    return ids.length > most ? [...ids.slice(0, Math.max(0, most - 1)), this.end] : ids;
  }
}
