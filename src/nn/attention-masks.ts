/**
 * The attention masks of BLIP-2, by name. A mask is added to attention scores: 0 where a row may look,
 * a large negative number where it may not. Rows are the positions that look, columns those looked at.
 * In the small matrices below `q` is a query token, `t` a text token, `.` a padded one; 1 may look.
 */
import { addDims, integer, ops, subtractDims, type Dim, type Tensor } from "../engine/index.js";

/** What is added where a row may not look: far below every score, far above the float32 limit. */
export const masked = -1e9;

const toScores = (visible: Tensor): Tensor => ops.where(visible, 0, masked);

/** int64 [B, S] of ones and zeros -> bool [B, 1, 1, S], broadcasting over heads and rows. */
function columns(mask: Tensor): Tensor {
  const [b, s] = mask.shape;
  return ops.cast(ops.reshape(mask, [b!, 1, 1, s!]), "bool");
}

/** bool [1, 1, rows, columns], true where the column is not after the row; row r stands at `offset + r`. */
function causal(rows: Dim, columnCount: Dim, offset: Dim): Tensor {
  const row = ops.slice(ops.range(columnCount), 0, offset, rows);
  return ops.lessOrEqual(
    ops.reshape(ops.range(columnCount), [1, 1, 1, columnCount]),
    ops.reshape(row, [1, 1, rows, 1]),
  );
}

/**
 * Every row sees every real column. mask: int64 [B, S] -> [B, 1, 1, S].
 *
 *        t t .
 *      t 1 1 0
 *      t 1 1 0
 *      . 1 1 0
 */
export function paddingMask(mask: Tensor): Tensor {
  return toScores(columns(mask));
}

/**
 * A decoder's mask: real columns up to the row's own place. Fewer rows than columns are the last ones: the
 * keys and values of the positions before them come from an earlier run.
 * mask: int64 [B, S] -> [B, 1, rows, S].
 *
 *        t t t
 *      t 1 0 0
 *      t 1 1 0
 *      t 1 1 1
 */
export function causalMask(mask: Tensor, rows: Dim = mask.shape[1]!): Tensor {
  const length = mask.shape[1]!;
  return toScores(ops.and(causal(rows, length, subtractDims(length, rows)), columns(mask)));
}

/** Image-text matching: queries and real text see each other. textMask: int64 [B, T] -> [B, 1, 1, Q+T].
 *
 *        q q t .
 *      q 1 1 1 0
 *      q 1 1 1 0
 *      t 1 1 1 0
 *      . 1 1 1 0
 */
export function bidirectionalMask(textMask: Tensor, queries: number): Tensor {
  return paddingMask(withQueries(textMask, queries));
}

/** Image-text contrast in one run: queries and text do not see each other. -> [B, 1, Q+T, Q+T].
 *
 *        q q t .
 *      q 1 1 0 0
 *      q 1 1 0 0
 *      t 0 0 1 0
 *      . 0 0 1 0
 */
export function unimodalMask(textMask: Tensor, queries: number): Tensor {
  const isQuery = queryPositions(textMask, queries);
  const length = isQuery.shape[0]!;
  const sameSide = ops.equal(
    ops.cast(ops.reshape(isQuery, [1, 1, 1, length]), "int32"),
    ops.cast(ops.reshape(isQuery, [1, 1, length, 1]), "int32"),
  );
  return toScores(ops.and(sameSide, columns(withQueries(textMask, queries))));
}

/**
 * Image-grounded generation in one run (the paper's multimodal causal mask): queries see queries; text
 * sees queries and the text up to itself. -> [B, 1, Q+T, Q+T].
 *
 *        q q t t
 *      q 1 1 0 0
 *      q 1 1 0 0
 *      t 1 1 1 0
 *      t 1 1 1 1
 */
export function multimodalCausalMask(textMask: Tensor, queries: number): Tensor {
  const isQuery = queryPositions(textMask, queries);
  const length = isQuery.shape[0]!;
  const visible = ops.or(ops.reshape(isQuery, [1, 1, 1, length]), causal(length, length, 0));
  return toScores(ops.and(visible, columns(withQueries(textMask, queries))));
}

/**
 * The text rows of `multimodalCausalMask`, for a run in which keys and values of the queries come from an
 * earlier one. -> [B, 1, T, Q+T].
 *
 *        q q t t
 *      t 1 1 1 0
 *      t 1 1 1 1
 */
export function cachedMultimodalCausalMask(textMask: Tensor, queries: number): Tensor {
  return causalMask(withQueries(textMask, queries), textMask.shape[1]);
}

/** Ones for the queries before a text mask. int64 [B, T] -> [B, Q+T]. */
export function withQueries(textMask: Tensor, queries: number): Tensor {
  const ones = ops.expand(ops.reshape(integer(1), [1, 1]), [textMask.shape[0]!, queries]);
  return ops.concat([ones, textMask], 1);
}

/** bool [Q+T], true for the queries. */
function queryPositions(textMask: Tensor, queries: number): Tensor {
  return ops.less(ops.range(addDims(queries, textMask.shape[1]!)), integer(queries));
}
