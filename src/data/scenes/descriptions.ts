/** Written descriptions of scenes: what a language model that never sees a picture learns to read. */
import { captionScene, joinPhrases } from "./captions.js";
import { askScene, type SceneQuestion } from "./questions.js";
import { Random } from "../random.js";
import { article, placePhrase, quadrant, type Scene, type SceneObject } from "./world.js";

/** No description is longer than this, not counting punctuation. */
export const MAX_DESCRIPTION_WORDS = 34;

/** A scene in words that answers every question about it: the background; size, colour, kind and quadrant of each thing. */
export function describe(scene: Scene, random: Random): string {
  if (random.chance(0.6)) return describeByTags(scene, random);
  const objects = random.shuffle(scene.objects);
  const place = placePhrase(scene.background);
  const short = objects.map(shortPhrase);
  const sentences = [
    () => `${joinPhrases(short)} ${place}`,
    () => `${place} there is ${joinPhrases(short)}`,
    () => `the background is ${scene.background} . ${short.join(" . ")}`,
  ];
  // These take more words than four things leave room for.
  if (objects.length < 4) {
    sentences.push(
      () => `${place} . ${objects.map((o) => `${sizedPhrase(o)} is in the ${quadrant(o)}`).join(" . ")}`,
      () =>
        `${place} . ${objects.map((o) => `the ${o.size} ${o.kind} ${quadrant(o)} is ${o.color}`).join(" . ")}`,
      () => `there is ${joinPhrases(objects.map((o) => `${sizedPhrase(o)} in the ${quadrant(o)}`))} ${place}`,
    );
  }
  return random.pick(sentences)();
}

/** "sand . large red star top left . small blue fish bottom right", with one order of attributes per text. */
function describeByTags(scene: Scene, random: Random): string {
  const order = random.chance(0.3)
    ? (["size", "color", "kind", "quadrant"] as const)
    : random.shuffle(["size", "color", "kind", "quadrant"] as const);
  const tags = random.shuffle(scene.objects).map((object) => {
    const attributes = { ...object, quadrant: quadrant(object) };
    return order.map((name) => attributes[name]).join(" ");
  });
  const backgroundAt = random.chance(0.6) ? 0 : random.between(0, tags.length);
  return tags.toSpliced(backgroundAt, 0, scene.background).join(" . ");
}

function sizedPhrase(object: SceneObject): string {
  return `${article(object.size)} ${object.size} ${object.color} ${object.kind}`;
}

function shortPhrase(object: SceneObject): string {
  return `${sizedPhrase(object)} ${quadrant(object)}`;
}

/** One line of the text corpus: a scene in words, with captions of it and questions about it. */
export interface TextRecord {
  readonly description: string;
  readonly captions: readonly string[];
  readonly questions: readonly SceneQuestion[];
}

/** The line of the text corpus for a scene; a function of the scene and the seed. */
export function textRecord(scene: Scene, seed: number): TextRecord {
  const random = new Random("text", seed, scene.split, scene.index);
  return {
    description: describe(scene, random),
    captions: captionScene(scene, random, 2),
    questions: askScene(scene, random, random.between(5, 6)),
  };
}
