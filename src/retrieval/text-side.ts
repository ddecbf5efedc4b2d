/** Texts on their way into a retrieval model: checked, cut into tokens, embedded. */
import type { EncodedBatch, TextTokenizer } from "../text/tokenizer.js";
import { chunks } from "./chunks.js";
import type { RetrievalRunner } from "./retrieval-runner.js";
import { checkFinite, rowOf } from "./scores.js";
import { RetrievalTexts } from "./texts.js";

const textsAtOnce = 64;

export class TextSide {
  private readonly texts: RetrievalTexts;

  constructor(
    private readonly runner: RetrievalRunner,
    tokenizer: TextTokenizer,
    maxTextLength: number | undefined,
  ) {
    const { max_position_embeddings: positions, vocab_size: vocabulary } = runner.config.qformer_config;
    this.texts = new RetrievalTexts(tokenizer, { positions, vocabulary, maxTextLength });
  }

  /** Throws a `UserError` unless `texts` is an array of strings that are not too long to be cut into tokens. */
  check(call: string, texts: readonly string[]): void {
    this.texts.check(call, texts);
  }

  /** ids and mask: int64 [N, T]. Throws a `UserError` if a text does not fit the model's positions or its words. */
  tokens(call: string, texts: readonly string[], signal?: AbortSignal): Promise<EncodedBatch> {
    return this.texts.tokens(call, texts, signal);
  }

  /** Rows of unit length, E numbers each, in the order of the texts. */
  async embed(call: string, texts: readonly string[], signal?: AbortSignal): Promise<Float32Array[]> {
    const rows: Float32Array[] = [];
    for (const part of chunks(texts, textsAtOnce)) {
      const { inputIds, attentionMask } = await this.tokens(call, part, signal);
      const embeds = await this.runner.textEmbeds(inputIds, attentionMask, signal);
      checkFinite("texts", embeds);
      rows.push(...part.map((_, i) => rowOf(embeds, i, part.length)));
    }
    return rows;
  }
}
