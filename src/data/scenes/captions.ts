/** Captions: every thing with its colour and count, and the background, in many phrasings. */
import type { Random } from "../../random.js";
import {
  apartAlong,
  article,
  isClear,
  numberWord,
  placePhrase,
  plural,
  quadrant,
  type Background,
  type Quadrant,
  type Scene,
  type SceneObject,
} from "./world.js";

/** No caption is longer than this. */
export const MAX_CAPTION_WORDS = 28;

/** Which attributes beyond kind, colour and count a caption tells. */
interface Detail {
  readonly size: boolean;
  readonly position: boolean;
}

const PLAIN: Detail = { size: false, position: false };
const DETAILS: readonly Detail[] = [
  { size: true, position: false },
  { size: false, position: true },
  { size: true, position: true },
];

interface Frame {
  /** The things in words, "a red star and two blue fish". */
  readonly things: string;
  /** "is" or "are". */
  readonly be: string;
  /** "on sand". */
  readonly place: string;
  readonly background: Background;
  /** "three things". */
  readonly total: string;
}

const TEMPLATES: readonly ((frame: Frame) => string)[] = [
  ({ things, place }) => `${things} ${place}`,
  ({ things, place }) => `${place}, ${things}`,
  ({ things, place, be }) => `${place} there ${be} ${things}`,
  ({ things, place, be }) => `there ${be} ${things} ${place}`,
  ({ things, place }) => `a picture of ${things} ${place}`,
  ({ things, place }) => `you can see ${things} ${place}`,
  ({ things, place, total }) => `${total} ${place}, ${things}`,
  ({ things, background }) => `${things}, the background is ${background}`,
  ({ things, background, be }) => `the background is ${background}, there ${be} ${things}`,
];

/**
 * `count` different captions of a scene in random order. The first drawn is plain (or tells a relation), the second
 * tells sizes or positions, the others either.
 */
export function captionScene(scene: Scene, random: Random, count = 3): string[] {
  const captions: string[] = [];
  while (captions.length < count) {
    const plain = captions.length === 0 || (captions.length > 1 && random.chance(0.5));
    const caption = plain ? plainCaption(scene, random) : detailedCaption(scene, random);
    if (!captions.includes(caption)) captions.push(caption);
  }
  return random.shuffle(captions);
}

function plainCaption(scene: Scene, random: Random): string {
  const related = random.chance(0.4) ? relationCaption(scene, random) : undefined;
  return related ?? write(scene, PLAIN, random);
}

function detailedCaption(scene: Scene, random: Random): string {
  // A position near a middle line is a matter of opinion, so such scenes tell sizes only.
  const clear = scene.objects.every((object) => isClear(object, "x") && isClear(object, "y"));
  const details = clear ? DETAILS : DETAILS.filter((detail) => !detail.position);
  for (;;) {
    const caption = write(scene, random.pick(details), random);
    if (caption.split(" ").length <= MAX_CAPTION_WORDS) return caption;
  }
}

function write(scene: Scene, detail: Detail, random: Random): string {
  const groups = groupObjects(scene.objects, detail.position);
  const count = scene.objects.length;
  const template = random.pick(TEMPLATES);
  return template({
    things: joinPhrases(groups.map((group) => groupPhrase(group, detail))),
    be: groups[0]?.count === 1 ? "is" : "are",
    place: placePhrase(scene.background),
    background: scene.background,
    total: `${numberWord(count)} ${count === 1 ? "thing" : "things"}`,
  });
}

/** "a red star to the left of a blue fish on sand"; undefined unless there are two things in different halves. */
function relationCaption(scene: Scene, random: Random): string | undefined {
  const [first, second] = scene.objects;
  if (scene.objects.length !== 2 || first === undefined || second === undefined) return undefined;
  if (first.kind === second.kind && first.color === second.color) return undefined;
  const axes = apartAlong(first, second);
  if (axes.length === 0) return undefined;
  let relation = "to the left of";
  if (random.pick(axes) === "y") relation = second.y > first.y ? "above" : "below";
  const detail = { size: random.chance(0.4), position: false };
  const [left, other] = groupObjects(scene.objects, false).map((group) => groupPhrase(group, detail));
  return `${left} ${relation} ${other} ${placePhrase(scene.background)}`;
}

interface Group {
  readonly object: SceneObject;
  readonly quadrant: Quadrant | undefined;
  count: number;
}

/** Things alike in kind and colour (and quadrant, where positions are told), in the order of their leftmost. */
function groupObjects(objects: readonly SceneObject[], byQuadrant: boolean): Group[] {
  const groups: Group[] = [];
  for (const object of objects) {
    const place = byQuadrant ? quadrant(object) : undefined;
    const known = groups.find(
      (group) =>
        group.object.kind === object.kind && group.object.color === object.color && group.quadrant === place,
    );
    if (known === undefined) groups.push({ object, quadrant: place, count: 1 });
    else known.count++;
  }
  return groups;
}

function groupPhrase({ object, quadrant: place, count }: Group, detail: Detail): string {
  const first = detail.size ? object.size : object.color;
  const words: string[] = [count === 1 ? article(first) : numberWord(count)];
  if (detail.size) words.push(object.size);
  words.push(object.color, count === 1 ? object.kind : plural(object.kind));
  if (place !== undefined) words.push(place);
  return words.join(" ");
}

/** "x", "x and y", "x, y and z". */
export function joinPhrases(phrases: readonly string[]): string {
  if (phrases.length < 2) return phrases.join("");
  return `${phrases.slice(0, -1).join(", ")} and ${phrases.at(-1)}`;
}
