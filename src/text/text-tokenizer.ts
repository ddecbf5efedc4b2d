/** A tokenizer as everybody sees it, wherever its files come from. */
import type { HostTensor } from "../host-tensor.js";

/** How `encodeBatch` makes rows of equal length. */
export interface BatchOptions {
  /** Fill every row up to this many ids (default: the longest row). A longer row stays longer than it, unless truncated. */
  readonly padTo?: number;
  /** Where the padding goes. */
  readonly side: "left" | "right";
  /** Keep at most this many ids of each text; special tokens around the text are kept, its end is cut. */
  readonly truncate?: number;
}

/** Token ids of several texts. */
export interface EncodedBatch {
  /** int64 [B, T] */
  readonly inputIds: HostTensor;
  /** int64 [B, T]: 1 for ids of the text, 0 for padding */
  readonly attentionMask: HostTensor;
}

/** A loaded tokenizer. */
export interface TextTokenizer {
  /** Number of token ids, added tokens included: every id is below this. */
  readonly vocabularySize: number;
  /** Ids by role, where tokenizer_config.json names a token for the role. */
  readonly specialIds: Readonly<Partial<Record<"bos" | "eos" | "pad" | "unk" | "cls" | "sep", number>>>;
  /** Ids of one text; with `addSpecialTokens` (the default) the ones that the tokenizer puts around it. */
  encode(text: string, options?: { addSpecialTokens?: boolean }): number[];
  /** Ids of texts as rows of equal length. Throws `UserError` if rows differ and the tokenizer has no padding token. */
  encodeBatch(texts: readonly string[], options: BatchOptions): EncodedBatch;
  /**
   * The text of ids, nothing cleaned up unless the tokenizer's own config asks for it. Ids from the vocabulary's size on (padding rows
   * of an embedding table) have no text. A byte-level tokenizer yields the space before the first word.
   */
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string;
  /** The id of one token by its exact content, such as `</s>`. Throws `UserError` if there is none. */
  idOf(token: string): number;
  /** Whether a token of this exact content exists. */
  has(token: string): boolean;
}
