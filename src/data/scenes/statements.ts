/** Statements: one fact of a scene each, in a sentence. All are true, and none tells of what is not there. */
import type { Random } from "../../random.js";
import {
  apartAlong,
  article,
  half,
  isClear,
  numberWord,
  plural,
  quadrant,
  type Kind,
  type Scene,
  type SceneObject,
} from "./world.js";

/**
 * Up to `count` different statements in random order. A thing is told of by its kind, or by its colour, only where no
 * other thing shares it, so that each statement has one meaning. The subject stands first: what is told can be found
 * from it.
 */
export function stateScene(scene: Scene, random: Random, count: number): string[] {
  const { objects, background } = scene;
  const statements = [
    `the background is ${background}`,
    `of things there ${be(objects.length)} ${numberWord(objects.length)}`,
    ...new Set(objects.map(({ kind }) => number(kind, objects))),
    ...objects.filter((object) => alone(objects, object, "kind")).flatMap(aboutKind),
    ...objects
      .filter((object) => alone(objects, object, "color"))
      .map(({ color, kind }) => `the ${color} thing is ${article(kind)} ${kind}`),
    ...relations(scene),
  ];
  return random.shuffle(statements).slice(0, count);
}

const be = (count: number): "is" | "are" => (count === 1 ? "is" : "are");

function number(kind: Kind, objects: readonly SceneObject[]): string {
  const count = objects.filter((object) => object.kind === kind).length;
  return `of ${plural(kind)} there ${be(count)} ${numberWord(count)}`;
}

function aboutKind(object: SceneObject): string[] {
  const { kind, color, size } = object;
  const told = [`the color of the ${kind} is ${color}`, `the ${kind} is ${size}`];
  if (isClear(object, "x") && isClear(object, "y")) told.push(`the ${kind} is in the ${quadrant(object)}`);
  return told;
}

function alone(objects: readonly SceneObject[], one: SceneObject, key: "kind" | "color"): boolean {
  return objects.filter((other) => other[key] === one[key]).length === 1;
}

/** Of two things of different kinds, from each to the other. */
function relations({ objects }: Scene): string[] {
  const [first, second] = objects;
  if (objects.length !== 2 || first === undefined || second === undefined || first.kind === second.kind)
    return [];
  return apartAlong(first, second).flatMap((axis) =>
    [[first, second] as const, [second, first] as const].map(([from, to]) => {
      const isBefore = half(to, axis) < half(from, axis);
      const side = axis === "x" ? `to the ${isBefore ? "left" : "right"} of` : isBefore ? "above" : "below";
      return `${side} the ${from.kind} is ${article(to.kind)} ${to.kind}`;
    }),
  );
}
