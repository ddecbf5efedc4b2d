/** What exists in the scenes world: its things, colours, sizes, backgrounds, splits and words. */

/** Width and height of a picture in pixels. */
export const PICTURE_SIZE = 96;

export const KINDS = [
  "circle",
  "square",
  "triangle",
  "star",
  "heart",
  "cross",
  "ring",
  "moon",
  "house",
  "tree",
  "car",
  "fish",
  "cat",
  "boat",
  "cup",
  "flower",
] as const;
export type Kind = (typeof KINDS)[number];

export const COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"] as const;
export type Color = (typeof COLORS)[number];

export const SIZES = ["small", "large"] as const;
export type Size = (typeof SIZES)[number];

export const BACKGROUNDS = ["snow", "grass", "sand", "night"] as const;
export type Background = (typeof BACKGROUNDS)[number];

/** Splits that have pictures. */
export const PICTURE_SPLITS = ["train", "validation", "test", "compositional"] as const;
export type PictureSplit = (typeof PICTURE_SPLITS)[number];

/** Splits that exist as text alone, for the language models. */
export const TEXT_SPLITS = ["text", "text_test"] as const;
export type TextSplit = (typeof TEXT_SPLITS)[number];
export type Split = PictureSplit | TextSplit;

/** Side of an object's box in pixels. */
export const SIZE_PIXELS: { readonly [S in Size]: number } = { small: 20, large: 36 };

export interface SceneObject {
  readonly kind: Kind;
  readonly color: Color;
  readonly size: Size;
  /** Centre in pixels; x to the right, y downwards. */
  readonly x: number;
  readonly y: number;
}

/** Everything there is to know about one picture. Objects are ordered from left to right. */
export interface Scene {
  readonly split: Split;
  readonly index: number;
  readonly background: Background;
  readonly objects: readonly SceneObject[];
}

/** Colour of each kind that no split but `compositional` shows or mentions: every kind once, every colour twice. */
export const HELD_OUT: { readonly [K in Kind]: Color } = {
  circle: "orange",
  square: "blue",
  triangle: "brown",
  star: "yellow",
  heart: "purple",
  cross: "red",
  ring: "green",
  moon: "pink",
  house: "orange",
  tree: "blue",
  car: "brown",
  fish: "yellow",
  cat: "purple",
  boat: "red",
  cup: "green",
  flower: "pink",
};

export function isHeldOut(thing: { readonly kind: Kind; readonly color: Color }): boolean {
  return HELD_OUT[thing.kind] === thing.color;
}

const QUADRANTS = ["top left", "top right", "bottom left", "bottom right"] as const;
export type Quadrant = (typeof QUADRANTS)[number];

const MIDDLE = PICTURE_SIZE / 2;
/** Nearer to a middle line than this, a position is not asked for and not mentioned in captions. */
export const CLEAR_MARGIN = 6;

/** An object's half of the picture along an axis: 0 for left or top, 1 for right or bottom. */
export function half(object: SceneObject, axis: "x" | "y"): 0 | 1 {
  return object[axis] < MIDDLE ? 0 : 1;
}

export function quadrant(object: SceneObject): Quadrant {
  return `${half(object, "y") === 0 ? "top" : "bottom"} ${half(object, "x") === 0 ? "left" : "right"}`;
}

/** The centre is visibly on one side of a middle line: of the vertical one ("x"), of the horizontal one ("y"). */
export function isClear(object: SceneObject, axis: "x" | "y"): boolean {
  return Math.abs(object[axis] - MIDDLE) >= CLEAR_MARGIN;
}

/** Axes along which two objects lie in different halves, both visibly so: only there is a relation told. */
export function apartAlong(first: SceneObject, second: SceneObject): ("x" | "y")[] {
  return (["x", "y"] as const).filter(
    (axis) => isClear(first, axis) && isClear(second, axis) && half(first, axis) !== half(second, axis),
  );
}

export const NUMBER_WORDS = ["zero", "one", "two", "three", "four"] as const;
export type NumberWord = (typeof NUMBER_WORDS)[number];

export function numberWord(count: number): NumberWord {
  const word = NUMBER_WORDS[count];
  if (word === undefined) throw new RangeError(`numberWord: from 0 to 4, got ${count}`);
  return word;
}

/** "stars", "crosses", "fish". */
export function plural(kind: Kind): string {
  if (kind === "fish") return "fish";
  return kind === "cross" ? "crosses" : `${kind}s`;
}

/** "a", or "an" before a vowel. */
export function article(next: string): "a" | "an" {
  return /^[aeiou]/.test(next) ? "an" : "a";
}

/** How a caption places its things: "on snow", but "at night". */
export function placePhrase(background: Background): string {
  return background === "night" ? "at night" : `on ${background}`;
}

/** Every word that captions, questions, answers and descriptions are made of. Punctuation: comma, full stop, question mark. */
export const WORDS: readonly string[] = [
  ...KINDS,
  ...KINDS.filter((kind) => kind !== "fish").map(plural),
  ...COLORS,
  ...SIZES,
  ...BACKGROUNDS,
  ...NUMBER_WORDS,
  ..."a an the and of on at in to is are there you can see".split(" "),
  ..."picture thing things background top bottom left right above below".split(" "),
  ..."what where how many color yes no nothing".split(" "),
];
