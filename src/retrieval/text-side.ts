/** Texts on their way into a retrieval model: checked, cut into tokens, embedded. */
import { UserError } from "../errors.js";
import type { EncodedBatch, TextTokenizer } from "../text/tokenizer.js";
import { chunks } from "./chunks.js";
import type { RetrievalRunner } from "./retrieval-runner.js";
import { rowOf } from "./scores.js";

/**
 * A text is refused before it is cut into tokens, which takes the caller's thread as long as the text is. The 512 positions of the
 * published models are some 2,000 characters.
 */
const mostCharacters = 100_000;

const textsAtOnce = 64;

export class TextSide {
  constructor(
    private readonly runner: RetrievalRunner,
    private readonly tokenizer: TextTokenizer,
    private readonly maxTextLength: number | undefined,
  ) {}

  /** Throws a `UserError` that names the text which is none, or too long to be looked at. */
  check(call: string, texts: readonly string[]): void {
    const name = (place: number): string => (texts.length === 1 ? "the text" : `text ${place}`);
    for (const [place, text] of texts.entries()) {
      if (typeof text !== "string")
        throw new UserError(`${call}: ${name(place)} is of type ${typeof text}; a string is required`);
      if (text.length > mostCharacters)
        throw new UserError(
          `${call}: ${name(place)} has ${text.length} characters, at most ${mostCharacters} are taken; shorten it`,
        );
    }
  }

  /** ids and mask: int64 [N, T]. Throws a `UserError` if a text does not fit the model's positions or its words. */
  tokens(texts: readonly string[]): EncodedBatch {
    const { max_position_embeddings: positions, vocab_size: rows } = this.runner.config.qformer_config;
    const truncate = this.maxTextLength;
    const batch = this.tokenizer.encodeBatch(texts, {
      side: "right",
      ...(truncate !== undefined && { truncate }),
    });
    const length = batch.inputIds.dims[1]!;
    if (length > positions) {
      throw new UserError(
        `text: ${length} tokens, the model has ${positions} positions; shorten the text, or let maxTextLength cut it`,
      );
    }
    const ids = batch.inputIds.data as BigInt64Array;
    // The word table has no row for the image token of a published tokenizer.
    const unknown = ids.find((id) => id < 0n || id >= BigInt(rows));
    if (unknown === undefined) return batch;
    throw new UserError(
      `text: token id ${unknown} is not in the model's word table of ${rows} rows; ` +
        "leave out special tokens such as <image>, and check that tokenizer and config belong together",
    );
  }

  /** Rows of unit length, E numbers each, in the order of the texts. */
  async embed(texts: readonly string[], signal?: AbortSignal): Promise<Float32Array[]> {
    const rows: Float32Array[] = [];
    for (const part of chunks(texts, textsAtOnce)) {
      const { inputIds, attentionMask } = this.tokens(part);
      const embeds = await this.runner.textEmbeds(inputIds, attentionMask, signal);
      rows.push(...part.map((_, i) => rowOf(embeds, i, part.length)));
    }
    return rows;
  }
}
