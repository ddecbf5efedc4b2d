/** Reads captions back, for measuring what a model wrote. */
import {
  BACKGROUNDS,
  COLORS,
  KINDS,
  NUMBER_WORDS,
  plural,
  type Background,
  type Color,
  type Kind,
  type SceneObject,
} from "./world.js";

export interface ParsedThing {
  kind: Kind;
  color?: Color;
  count: number;
}

export interface ParsedCaption {
  /** One entry per kind and colour, in the order of first mention. */
  objects: ParsedThing[];
  background?: Background;
}

interface Noun {
  readonly kind: Kind;
  readonly many: boolean;
}

const NOUNS = new Map<string, Noun>(KINDS.map((kind) => [kind, { kind, many: false }]));
for (const kind of KINDS) if (plural(kind) !== kind) NOUNS.set(plural(kind), { kind, many: true });
const COLOR_WORDS = new Map<string, Color>(COLORS.map((color) => [color, color]));
const BACKGROUND_WORDS = new Map<string, Background>(
  BACKGROUNDS.map((background) => [background, background]),
);
const COUNT_WORDS = new Map<string, number>(NUMBER_WORDS.map((word, count) => [word, count]));
for (const word of ["a", "an", "the"]) COUNT_WORDS.set(word, 1);
const SIZE_WORDS = new Set(["small", "large"]);

/**
 * What a caption says. Takes any text: words that it does not know are passed over, a kind without a colour or a
 * count is still counted, and the first background named is the background. Exact on every caption of this world.
 */
export function parseCaption(text: string): ParsedCaption {
  const objects: ParsedThing[] = [];
  let background: Background | undefined;
  let count: number | undefined;
  let color: Color | undefined;
  const forget = (): void => {
    count = undefined;
    color = undefined;
  };
  for (const word of text.toLowerCase().match(/[a-z]+|[^a-z\s]/g) ?? []) {
    const noun = NOUNS.get(word);
    if (noun !== undefined) {
      addThing(objects, noun.kind, color, count ?? (noun.many ? 2 : 1));
      forget();
    } else if (COUNT_WORDS.has(word)) {
      count = COUNT_WORDS.get(word);
      color = undefined;
    } else if (COLOR_WORDS.has(word)) {
      color = COLOR_WORDS.get(word);
    } else if (!SIZE_WORDS.has(word)) {
      background ??= BACKGROUND_WORDS.get(word);
      forget();
    }
  }
  return background === undefined ? { objects } : { objects, background };
}

function addThing(objects: ParsedThing[], kind: Kind, color: Color | undefined, count: number): void {
  if (count === 0) return;
  const known = objects.find((object) => object.kind === kind && object.color === color);
  if (known !== undefined) known.count += count;
  else objects.push(color === undefined ? { kind, count } : { kind, color, count });
}

/** What a perfect parse of a scene's captions gives: its things by kind and colour, from left to right. */
export function countThings(objects: readonly SceneObject[]): Required<ParsedThing>[] {
  const things: Required<ParsedThing>[] = [];
  for (const { kind, color } of objects) {
    const known = things.find((thing) => thing.kind === kind && thing.color === color);
    if (known !== undefined) known.count++;
    else things.push({ kind, color, count: 1 });
  }
  return things;
}
