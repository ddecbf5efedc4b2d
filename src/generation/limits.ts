/**
 * How much one call may take: the length of prompts where no positions bound it, and the memory of what is computed from them.
 *
 * Shapes: B prompts, N sequences of each, S positions read, U positions written, P image positions, H heads, K head size, V vocabulary.
 */
import { UserError } from "../errors.js";
import type { Blip2Config } from "../models/blip-2.js";
import { gridSide } from "../models/vision/patches.js";

/** Tokens of a prompt where the model has no positions that would bound it; the paper's T5 was trained on 512. */
export const usualPromptTokens = 2048;

/** Bytes beside the weights. */
export const usualMemory = 8 * 2 ** 30;

/** No token of a text in words is longer on average. What has more characters is refused before it is cut into tokens. */
const charactersPerToken = 16;

/** The most characters of a text that shall become so many tokens. */
export const charactersFor = (tokens: number): number => tokens * charactersPerToken;

/** Of a language model, what decides how much its caches and scores take. */
export interface Footprint {
  readonly kind: "decoder-only" | "encoder-decoder";
  readonly cache: { readonly layers: number; readonly heads: number; readonly headSize: number };
  readonly embeddingSize: number;
}

/** A batch: B prompts padded to S positions, N sequences of U new positions each. */
export interface BatchSize {
  readonly prompts: number;
  readonly read: number;
  readonly written: number;
  readonly sequences: number;
}

/** The scores of one layer, what is added to them, and their softmax are there at once. */
const scoreCopies = 3;
/** A layer's inner states, by the model's width: four times in the middle, before and after the activation. */
const innerWidths = 12;
/** The cache before a step and the one behind it. */
const cacheCopies = 2;
/** Logits in the worker and here, their logarithms, and what processors make of these. */
const logitCopies = 4;

/** An estimate of the bytes that a batch takes beside the weights: float32 caches, scores of the largest layer, and logits. */
export function languageBytes(
  { kind, cache, embeddingSize: width }: Footprint,
  vocabulary: number,
  { prompts, read, written, sequences }: BatchSize,
): number {
  const { layers, heads, headSize } = cache;
  const perPosition = 2 * heads * headSize;
  const rows = prompts * sequences;
  const reading = prompts * (heads * read ** 2 * scoreCopies + read * width * innerWidths);
  const logits = rows * vocabulary * logitCopies;
  if (kind === "decoder-only") {
    const kept = rows * (read + written) * layers * perPosition * cacheCopies;
    return 4 * (kept + Math.max(reading, logits));
  }
  const seen = prompts * read * layers * perPosition;
  // Each sequence looks at its own copy of what the encoder left; the runtime makes those of all layers first.
  const looking = rows * read * (layers * perPosition + heads * scoreCopies);
  const kept = rows * written * layers * perPosition * cacheCopies;
  return 4 * (seen + Math.max(reading, looking + kept + logits));
}

/** The same of an image encoder that looks at so many pictures at once. */
export function visionBytes({ vision_config: vision }: Blip2Config, pictures: number): number {
  const positions = 1 + gridSide(vision) ** 2;
  const { num_attention_heads: heads, hidden_size: width } = vision;
  return 4 * pictures * (heads * positions ** 2 * scoreCopies + positions * width * innerWidths);
}

/** The consecutive prompts, from and to, that are run together. */
export type Part = readonly [from: number, to: number];

/**
 * Splits a batch so that each part takes at most `most` bytes; a part has at least one prompt.
 * @param lengths positions of each prompt.
 * @param bytes of so many prompts, padded to a length.
 */
export function partsWithin(
  most: number,
  lengths: readonly number[],
  bytes: (prompts: number, read: number) => number,
): Part[] {
  const parts: Part[] = [];
  let [from, longest] = [0, 0];
  for (const [i, length] of lengths.entries()) {
    const next = Math.max(longest, length);
    if (i > from && bytes(i - from + 1, next) > most) {
      parts.push([from, i]);
      [from, longest] = [i, length];
    } else longest = next;
  }
  if (lengths.length > from) parts.push([from, lengths.length]);
  return parts;
}

const gibibytes = (bytes: number): string => `${(bytes / 2 ** 30).toPrecision(2)} GiB`;

/** Throws a `UserError` if `bytes` are more than a call may take. `what` says of which they are, `remedy` what would take less. */
export function checkMemory(call: string, what: string, bytes: number, most: number, remedy: string): void {
  if (bytes <= most) return;
  throw new UserError(
    `${call}: ${what} would take about ${gibibytes(bytes)} beside the weights, at most ${gibibytes(most)} are taken; ` +
      `${remedy}, or raise maxMemory`,
  );
}
