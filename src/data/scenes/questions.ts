/** Questions about a scene with their answers. */
import type { Random } from "../../random.js";
import {
  COLORS,
  KINDS,
  apartAlong,
  article,
  half,
  isClear,
  isHeldOut,
  numberWord,
  plural,
  quadrant,
  type Color,
  type Kind,
  type Scene,
  type SceneObject,
} from "./world.js";

export const QUESTION_TYPES = [
  "kind",
  "color",
  "count",
  "position",
  "relation",
  "yes/no",
  "background",
] as const;
export type QuestionType = (typeof QUESTION_TYPES)[number];

export interface SceneQuestion {
  readonly question: string;
  readonly answer: string;
  readonly type: QuestionType;
}

/** Up to `count` different questions about a scene, of as many types as it allows, in random order. */
export function askScene(scene: Scene, random: Random, count = 6): SceneQuestion[] {
  const chosen: SceneQuestion[] = [];
  const asked = new Set<string>();
  // Rounds over the types: first one question of each type, then second ones until there are enough.
  for (let round = 0; round < 30 && chosen.length < count; round++) {
    for (const type of random.shuffle(QUESTION_TYPES)) {
      if (chosen.length === count) break;
      const before = chosen.findLast((known) => known.type === type)?.answer;
      const question = ASK[type](scene, random, before);
      if (question === undefined || asked.has(question.question)) continue;
      asked.add(question.question);
      chosen.push({ ...question, type });
    }
  }
  return random.shuffle(chosen);
}

type Asked = { readonly question: string; readonly answer: string } | undefined;

/** `before` is the answer to the scene's last question of the same type. */
type Ask = (scene: Scene, random: Random, before: string | undefined) => Asked;

const ASK: { readonly [T in QuestionType]: Ask } = {
  kind: askKind,
  color: askColor,
  count: askCount,
  position: askPosition,
  relation: askRelation,
  "yes/no": askYesNo,
  background: (scene) => ({ question: "what is the background?", answer: scene.background }),
};

function askKind({ objects }: Scene, random: Random): Asked {
  const subject = subjectOf(
    objects.filter((object) => colorCount(objects, object.color) === 1),
    random,
  );
  return subject && { question: `what is ${subject.color}?`, answer: subject.kind };
}

function askColor({ objects }: Scene, random: Random): Asked {
  const subject = subjectOf(uniqueKinds(objects), random);
  return subject && { question: `what color is the ${subject.kind}?`, answer: subject.color };
}

function askCount({ objects }: Scene, random: Random): Asked {
  if (random.chance(0.35)) {
    return { question: "how many things are there?", answer: numberWord(objects.length) };
  }
  const absent = KINDS.filter((kind) => kindCount(objects, kind) === 0);
  const several = objects.filter((object) => kindCount(objects, object.kind) > 1);
  let kind = random.pick(objects).kind;
  // Most kinds occur once, so the other answers are asked for more often than they come up.
  if (several.length > 0 && random.chance(0.8)) kind = random.pick(several).kind;
  else if (random.chance(0.4)) kind = random.pick(absent);
  return { question: `how many ${plural(kind)} are there?`, answer: numberWord(kindCount(objects, kind)) };
}

function askPosition({ objects }: Scene, random: Random): Asked {
  const clear = uniqueKinds(objects).filter((object) => isClear(object, "x") && isClear(object, "y"));
  const subject = subjectOf(clear, random);
  return subject && { question: `where is the ${subject.kind}?`, answer: quadrant(subject) };
}

/**
 * Only about two things of different kinds that lie in different halves of the picture; one time in three it asks
 * for the empty side, because otherwise the answer would always be the other thing.
 */
function askRelation({ objects }: Scene, random: Random): Asked {
  const [first, second] = random.shuffle(objects);
  if (objects.length !== 2 || first === undefined || second === undefined || first.kind === second.kind) {
    return undefined;
  }
  const axes = apartAlong(first, second);
  if (axes.length === 0) return undefined;
  const axis = random.pick(axes);
  const otherIsBefore = half(second, axis) < half(first, axis);
  const empty = random.chance(1 / 3);
  const before = otherIsBefore !== empty;
  const side = axis === "x" ? `to the ${before ? "left" : "right"} of` : before ? "above" : "below";
  return { question: `what is ${side} the ${first.kind}?`, answer: empty ? "nothing" : second.kind };
}

/** As often yes as no. The things that are not there are made from what is: another colour, or another kind. */
function askYesNo({ split, objects }: Scene, random: Random, before: string | undefined): Asked {
  const subject = subjectOf(objects, random) as SceneObject;
  // Taking turns keeps the balance: there are fewer different things to say yes to, and no question comes twice.
  const yes = before === undefined ? random.chance(0.5) : before === "no";
  if (random.chance(0.25)) {
    const kind = yes ? subject.kind : random.pick(KINDS.filter((other) => kindCount(objects, other) === 0));
    return { question: `is there ${article(kind)} ${kind}?`, answer: yes ? "yes" : "no" };
  }
  const { kind, color } = yes ? subject : absentThing(objects, subject, split === "compositional", random);
  return { question: `is there ${article(color)} ${color} ${kind}?`, answer: yes ? "yes" : "no" };
}

function absentThing(
  objects: readonly SceneObject[],
  subject: SceneObject,
  heldOutToo: boolean,
  random: Random,
): { kind: Kind; color: Color } {
  const usable = (thing: { kind: Kind; color: Color }): boolean =>
    (heldOutToo || !isHeldOut(thing)) &&
    !objects.some((object) => object.kind === thing.kind && object.color === thing.color);
  // The hardest: one thing's kind in another one's colour.
  const swapped = objects.map((other) => ({ kind: subject.kind, color: other.color })).filter(usable);
  if (swapped.length > 0 && random.chance(0.5)) return random.pick(swapped);
  const otherColors = COLORS.map((color) => ({ kind: subject.kind, color })).filter(usable);
  const otherKinds = KINDS.map((kind) => ({ kind, color: subject.color })).filter(usable);
  return random.pick(random.chance(0.5) ? otherColors : otherKinds);
}

/** One of the objects that can be asked about; held-out ones mostly, for they are what their split is about. */
function subjectOf(objects: readonly SceneObject[], random: Random): SceneObject | undefined {
  if (objects.length === 0) return undefined;
  const heldOut = objects.filter(isHeldOut);
  return random.pick(heldOut.length > 0 && random.chance(0.75) ? heldOut : objects);
}

function uniqueKinds(objects: readonly SceneObject[]): SceneObject[] {
  return objects.filter((object) => kindCount(objects, object.kind) === 1);
}

function kindCount(objects: readonly SceneObject[], kind: Kind): number {
  return objects.filter((object) => object.kind === kind).length;
}

function colorCount(objects: readonly SceneObject[], color: Color): number {
  return objects.filter((object) => object.color === color).length;
}
