/**
 * Which frozen matrices are held in how many bits, by checkpoint name.
 *
 * - fp32: all as float32.
 * - int8: every linear layer of image encoder, Q-Former and language model, the head too.
 * - int4: the layers of the language model in 4 bits. It reads all its weights for each token, so their size is
 *   its speed. The rest as in int8: the image encoder works on hundreds of positions at once and is limited
 *   by arithmetic, which 4 bits make slower, and the head decides between words directly.
 *
 * Always as they are: norms, biases, lookups (words, positions, relative positions), queries, the patch embedding,
 * and the small projections at the ends of the Q-Former, through which everything goes.
 */
export const precisions = ["fp32", "int8", "int4"] as const;
export type Precision = (typeof precisions)[number];

/** How a matrix is held. `table`: its rows are looked up as well, so it is also kept as it is. */
export interface HeldForm {
  readonly bits: 8 | 4;
  readonly table: boolean;
}

/** Word tables, which in OPT, and in T5 where the config says so, are the head as well. */
const wordTable = /(^|\.)(embed_tokens|shared)\.weight$/;
const kept =
  /(^|\.)(embed_positions|position_embeddings?|word_embeddings|relative_attention_bias|language_projection|vision_projection|text_projection|itm_head)\.weight$/;
const head = /(^|\.)lm_head\.weight$/;

/**
 * How the weight `name` of shape `dims` is held; undefined: as it is.
 * @param tiedHead whether the word table is the head of the language model.
 */
export function heldForm(
  precision: Exclude<Precision, "fp32">,
  name: string,
  dims: readonly number[],
  tiedHead: boolean,
): HeldForm | undefined {
  if (dims.length !== 2 || !name.endsWith(".weight") || kept.test(name)) return undefined;
  if (wordTable.test(name)) return tiedHead ? { bits: 8, table: true } : undefined;
  const isLayer = name.startsWith("language_model.") && !head.test(name);
  return { bits: precision === "int4" && isLayer ? 4 : 8, table: false };
}
