/** Makes a scene from (seed, split, index). */
import { Random } from "../../random.js";
import {
  BACKGROUNDS,
  CLEAR_MARGIN,
  COLORS,
  HELD_OUT,
  KINDS,
  PICTURE_SIZE,
  SIZES,
  SIZE_PIXELS,
  isHeldOut,
  type Color,
  type Kind,
  type Scene,
  type SceneObject,
  type Size,
  type Split,
} from "./world.js";

interface Thing {
  readonly kind: Kind;
  readonly color: Color;
  readonly size: Size;
}

/** Shares of scenes with one to four objects. */
const COUNT_SHARES = [0.16, 0.3, 0.28, 0.26] as const;
/** Share of all scenes with identical things, so that captions say "two red stars". */
const TWIN_SHARE = 0.1;
/** Share of all scenes with one kind in two colours, so that counting a kind is more than finding it. */
const SIBLING_SHARE = 0.1;
/** How often a centre is kept away from the middle lines, so that most positions can be named. */
const CLEAR_SHARE = 0.85;
const BORDER = 2;

/** The scene with this name: a function of its three arguments only. */
export function makeScene(seed: number, split: Split, index: number): Scene {
  const random = new Random("scene", seed, split, index);
  const background = random.pick(BACKGROUNDS);
  let things = chooseThings(random, split);
  let objects = place(random, things);
  // Never seen in practice; an endless search would be worse than a scene with one thing less.
  while (objects === undefined) {
    things = things.slice(0, -1);
    objects = place(random, things);
  }
  return { split, index, background, objects: objects.toSorted((a, b) => a.x - b.x || a.y - b.y) };
}

function chooseThings(random: Random, split: Split): Thing[] {
  const count = chooseCount(random);
  const things: Thing[] = [];
  const size = (): Size => random.pick(SIZES);
  if (split === "compositional") {
    const kind = random.pick(KINDS);
    things.push({ kind, color: HELD_OUT[kind], size: size() });
  } else {
    things.push(chooseThing(random, things, false));
  }
  if (count > 1) {
    const first = things[0] as Thing;
    // The shares are of all scenes, but only those with several objects can have twins.
    const several = 1 - COUNT_SHARES[0];
    const draw = random.next() * several;
    if (draw < TWIN_SHARE) {
      things.push(first);
      if (count > 2 && random.chance(0.25)) things.push(first);
    } else if (draw < TWIN_SHARE + SIBLING_SHARE) {
      const colors = COLORS.filter((color) => color !== first.color && color !== HELD_OUT[first.kind]);
      things.push({ kind: first.kind, color: random.pick(colors), size: size() });
    }
  }
  while (things.length < count) {
    things.push(chooseThing(random, things, split === "compositional" && random.chance(0.3)));
  }
  return things;
}

function chooseCount(random: Random): number {
  let draw = random.next();
  for (const [index, share] of COUNT_SHARES.entries()) {
    if (draw < share) return index + 1;
    draw -= share;
  }
  return COUNT_SHARES.length;
}

/** A thing whose colour and kind differ from those of all the others: twins are made on purpose only. */
function chooseThing(random: Random, others: readonly Thing[], heldOut: boolean): Thing {
  for (;;) {
    const kind = random.pick(KINDS);
    const color = heldOut ? HELD_OUT[kind] : random.pick(COLORS);
    const thing = { kind, color, size: random.pick(SIZES) };
    if (isHeldOut(thing) !== heldOut) continue;
    if (others.some((other) => other.kind === kind && other.color === color)) continue;
    return thing;
  }
}

/** Rejection sampling of centres; undefined if no arrangement was found. */
function place(random: Random, things: readonly Thing[]): SceneObject[] | undefined {
  for (let attempt = 0; attempt < 200; attempt++) {
    const placed: SceneObject[] = [];
    for (const thing of things) {
      const object = placeOne(random, thing, placed);
      if (object === undefined) break;
      placed.push(object);
    }
    if (placed.length === things.length) return placed;
  }
  return undefined;
}

function placeOne(random: Random, thing: Thing, placed: readonly SceneObject[]): SceneObject | undefined {
  const radius = SIZE_PIXELS[thing.size] / 2;
  const low = BORDER + radius;
  const high = PICTURE_SIZE - 1 - BORDER - radius;
  const keepClear = random.chance(CLEAR_SHARE);
  for (let attempt = 0; attempt < 40; attempt++) {
    const x = random.between(low, high);
    const y = random.between(low, high);
    if (keepClear && (nearMiddle(x) || nearMiddle(y))) continue;
    const free = placed.every((other) => {
      const apart = radius + SIZE_PIXELS[other.size] / 2;
      return (other.x - x) ** 2 + (other.y - y) ** 2 >= apart ** 2;
    });
    if (free) return { ...thing, x, y };
  }
  return undefined;
}

function nearMiddle(value: number): boolean {
  return Math.abs(value - PICTURE_SIZE / 2) < CLEAR_MARGIN;
}
