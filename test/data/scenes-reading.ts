/** A second, independent reading of descriptions, against which the generated answers are checked. */
import { BACKGROUNDS, COLORS, KINDS, SIZES, plural, type SceneObject } from "../../src/data/scenes/index.js";

const NUMBERS = ["zero", "one", "two", "three", "four"];

export function readDescription(text: string): {
  background: string | undefined;
  objects: (SceneObject & { place: string })[];
  answer: (question: string) => string | undefined;
} {
  const find = (words: readonly string[], list: readonly string[]): string | undefined =>
    words.find((word) => list.includes(word));
  const background = find(text.split(/\W+/), BACKGROUNDS);
  const objects = text
    .split(/ \. |, | and /)
    .map((segment) => segment.split(" "))
    .filter((words) => find(words, KINDS) !== undefined)
    .map((words) => {
      const vertical = find(words, ["top", "bottom"]);
      const horizontal = find(words, ["left", "right"]);
      return {
        kind: find(words, KINDS),
        color: find(words, COLORS),
        size: find(words, SIZES),
        place: `${vertical} ${horizontal}`,
        x: horizontal === "left" ? 0 : 1,
        y: vertical === "top" ? 0 : 1,
      } as SceneObject & { place: string };
    });
  const only = <T>(list: T[]): T | undefined => (list.length === 1 ? list[0] : undefined);
  const ofKind = (kind: string | undefined) =>
    objects.filter((o) => o.kind === kind || plural(o.kind) === kind);

  function answer(question: string): string | undefined {
    const words = question.replace("?", "").split(" ");
    const last = words.at(-1) as string;
    if (question === "what is the background?") return background;
    if (question === "how many things are there?") return NUMBERS[objects.length];
    if (question.startsWith("how many")) return NUMBERS[ofKind(words[2]).length];
    if (question.startsWith("what color")) return only(ofKind(last))?.color;
    if (question.startsWith("where")) return only(ofKind(last))?.place;
    if (question.startsWith("is there")) {
      const color = words.length === 5 ? words[3] : undefined;
      return ofKind(last).some((o) => color === undefined || o.color === color) ? "yes" : "no";
    }
    if (words.length === 3) return only(objects.filter((o) => o.color === last))?.kind;
    const from = only(ofKind(last));
    const other = objects.find((o) => o !== from);
    if (from === undefined || other === undefined || objects.length !== 2) return undefined;
    const there = question.includes("left")
      ? other.x < from.x
      : question.includes("right")
        ? other.x > from.x
        : question.includes("above")
          ? other.y < from.y
          : other.y > from.y;
    return there ? other.kind : "nothing";
  }
  return { background, objects, answer };
}
