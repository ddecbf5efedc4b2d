/**
 * Condensed descriptions: several words at one position of an encoder, their embeddings added up. A soft prompt
 * says as much with fewer, larger and less exact vectors than words are. A small language model that was only ever shown
 * words makes nothing of such vectors, and hardly anything can be told to it. Text alone can teach it. Not in the paper. Shapes: B rows, S positions, N words, D width.
 */
import { input, ops, type HostTensors, type Tensor } from "../../engine/index.js";
import type { Random } from "../../random.js";
import { float32Tensor } from "../../host-tensor.js";
import type { EncoderDecoder } from "../../models/language/language-model.js";
import { paddedRows } from "../../training/token-rows.js";

/** What stands at a position. */
export interface CondensedPosition {
  /** Words, whose embeddings are added up. */
  readonly ids: readonly number[];
  /** What the sum is multiplied by. */
  readonly size: number;
}

/** One word at a position, as texts are. */
export const plainPositions = (ids: readonly number[]): CondensedPosition[] =>
  ids.map((id) => ({ ids: [id], size: 1 }));

/** Share of the words between phrases that stay. */
const keptBreaks = 0.3;

/**
 * A description with its words at fewer positions. Words of one phrase may share a position, in their order; words of
 * two never do, or nothing would say what belongs together. How far it goes is drawn, up to a position per phrase.
 *
 * @param breaks words between phrases, such as commas; most are left out, the others stand alone.
 * @param scale the largest size. One is drawn for the whole description, as likely between 1 and 2 as between 2 and 4.
 */
export function condense(
  words: readonly number[],
  breaks: ReadonlySet<number>,
  scale: number,
  random: Random,
): CondensedPosition[] {
  const size = Math.exp(random.next() * Math.log(scale));
  const spread = random.pick([0, 0.3, 0.6, 1]);
  const positions: CondensedPosition[] = [];
  let phrase: number[] = [];
  const close = (): void => {
    const most = Math.max(1, Math.round(1 + spread * (phrase.length - 1) * random.next()));
    const starts = random
      .shuffle(Array.from({ length: Math.max(0, phrase.length - 1) }, (_, i) => i + 1))
      .slice(0, most - 1)
      .toSorted((a, b) => a - b);
    for (const [i, from] of [0, ...starts].entries()) {
      const ids = phrase.slice(from, starts[i]);
      if (ids.length > 0) positions.push({ ids, size });
    }
    phrase = [];
  };
  for (const word of words) {
    if (!breaks.has(word)) {
      phrase.push(word);
      continue;
    }
    close();
    if (random.chance(keptBreaks)) positions.push({ ids: [word], size });
  }
  close();
  return positions;
}

/** Embeddings [B, S, D] of rows that `condensedFeeds` made, and their mask int64 [B, S]. */
export function condensedInputs(model: EncoderDecoder): {
  readonly inputsEmbeds: Tensor;
  readonly encoderMask: Tensor;
} {
  const words = model.embed(input("ids", "int64", ["B", "N"]));
  return {
    inputsEmbeds: ops.matmul(input("sums", "float32", ["B", "S", "N"]), words),
    encoderMask: input("mask", "int64", ["B", "S"]),
  };
}

/** ids: int64 [B, N], mask: int64 [B, S], sums: [B, S, N], how much of a word stands at a position. */
export function condensedFeeds(rows: readonly (readonly CondensedPosition[])[], pad: number): HostTensors {
  const ids = paddedRows(
    rows.map((row) => row.flatMap((position) => position.ids)),
    pad,
  );
  const mask = paddedRows(
    rows.map((row) => row.map(() => 1)),
    0,
  );
  const [wordCount, positionCount] = [ids.dims[1]!, mask.dims[1]!];
  const sums = new Float32Array(rows.length * positionCount * wordCount);
  rows.forEach((row, r) => {
    let word = 0;
    row.forEach((position, p) => {
      for (const _ of position.ids) sums[(r * positionCount + p) * wordCount + word++] = position.size;
    });
  });
  return { ids, mask, sums: float32Tensor(sums, [rows.length, positionCount, wordCount]) };
}
