/** Texts as the Q-Former reads them, checked before anything is computed. */
import { show } from "../check-options.js";
import { stopIf, UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import type { EncodedBatch, TextTokenizer } from "../text/tokenizer.js";

/** A word of more letters is one unknown token to BERT's tokenizer. */
const charactersPerToken = 100;
/** A text is cut into tokens in one piece, on the caller's thread: this many characters of any text are. */
const alwaysTaken = 4096;

interface TextLimits {
  /** The model's text positions. */
  readonly positions: number;
  /** Rows of its word table. */
  readonly vocabulary: number;
  /** Texts are cut to so many tokens. */
  readonly maxTextLength: number | undefined;
}

export class RetrievalTexts {
  constructor(
    private readonly tokenizer: TextTokenizer,
    private readonly limits: TextLimits,
  ) {}

  /** Throws a `UserError` unless `texts` is an array of strings that are not too long to be cut into tokens. */
  check(call: string, texts: readonly string[]): void {
    if (!Array.isArray(texts))
      throw new UserError(`${call}: texts is ${show(texts)}: an array of strings is required`);
    for (const text of texts) this.checkOne(call, text);
  }

  private checkOne(call: string, text: unknown): void {
    if (typeof text !== "string") throw new UserError(`${call}: text is ${show(text)}: a string is required`);
    const most = this.mostCharacters;
    if (text.length <= most || this.limits.maxTextLength !== undefined) return;
    throw new UserError(
      `${call}: a text has ${text.length} characters, at most ${most} are taken; shorten it, or let maxTextLength cut it`,
    );
  }

  private get mostCharacters(): number {
    const { positions, maxTextLength = positions } = this.limits;
    return Math.max(alwaysTaken, maxTextLength * charactersPerToken);
  }

  /** Of a long text that is cut to `truncate` tokens anyway, its beginning, up to a space: so many tokens, and one more. */
  private enoughOf(text: string, truncate: number): string {
    for (let most = this.mostCharacters; most < text.length; most *= 2) {
      const start = text.slice(0, most);
      const end = start.search(/\s\S*$/);
      const enough = end < 0 ? start : start.slice(0, end);
      if (this.tokenizer.encode(enough).length > truncate) return enough;
    }
    return text;
  }

  /**
   * Ids and mask, [N, T]. The thread is left to others between long texts.
   * @param call for errors.
   */
  async tokens(call: string, texts: readonly string[], signal?: AbortSignal): Promise<EncodedBatch> {
    const { positions, maxTextLength: truncate } = this.limits;
    const cut: string[] = [];
    for (const text of texts) {
      cut.push(truncate === undefined ? text : this.enoughOf(text, truncate));
      if (text.length <= alwaysTaken) continue;
      // One that is too long shows before the others are looked at.
      if (truncate === undefined) this.checkLength(call, this.tokenizer.encode(text).length, positions);
      await new Promise((resolve) => setTimeout(resolve));
      stopIf(signal);
    }
    const batch = this.tokenizer.encodeBatch(cut, {
      side: "right",
      ...(truncate !== undefined && { truncate }),
    });
    this.checkLength(call, batch.inputIds.dims[1]!, positions);
    this.checkIds(call, batch.inputIds);
    return batch;
  }

  private checkLength(call: string, length: number, positions: number): void {
    if (length <= positions) return;
    throw new UserError(
      `${call}: text: ${length} tokens, the model has ${positions} positions; shorten the text, or let maxTextLength cut it`,
    );
  }

  /** The word table has no row for the image token of a published tokenizer. */
  private checkIds(call: string, { data }: HostTensor): void {
    const { vocabulary: rows } = this.limits;
    const unknown = (data as BigInt64Array).find((id) => id < 0n || id >= BigInt(rows));
    if (unknown === undefined) return;
    throw new UserError(
      `${call}: text: token id ${unknown} is not in the model's word table of ${rows} rows; ` +
        "leave out special tokens such as <image>, and check that tokenizer and config belong together",
    );
  }
}
