/** Written descriptions of scenes: what a language model that never sees a picture learns to read. */
import { captionScene, joinPhrases } from "./captions.js";
import { askScene, type SceneQuestion } from "./questions.js";
import { stateScene } from "./statements.js";
import { Random } from "../../random.js";
import { article, placePhrase, quadrant, type Scene, type SceneObject } from "./world.js";

/** More are never written for a scene, in text or about a picture. */
export const STATEMENTS_PER_SCENE = 10;

/** No description is longer than this, not counting punctuation. */
export const MAX_DESCRIPTION_WORDS = 34;

/**
 * A scene in words that answers every question about it: the background; size, colour, kind and quadrant of each
 * thing, from left to right. The forms differ in what stands around a thing, never in the order of its
 * attributes: with that order shuffled a small language model did not learn to look anything up.
 */
export function describe(scene: Pick<Scene, "background" | "objects">, random: Random): string {
  const { objects } = scene;
  const place = placePhrase(scene.background);
  const tags = objects.map((object) => `${object.size} ${object.color} ${object.kind} ${quadrant(object)}`);
  if (random.chance(0.6)) {
    return (random.chance(0.6) ? [scene.background, ...tags] : [...tags, scene.background]).join(" . ");
  }
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
      () => `there is ${joinPhrases(objects.map((o) => `${sizedPhrase(o)} in the ${quadrant(o)}`))} ${place}`,
    );
  }
  return random.pick(sentences)();
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
  readonly statements: readonly string[];
}

/**
 * The line of the text corpus for a scene; a function of the scene and the seed. Training lines ask as much as there is
 * to ask: looking something up is learnt from answers alone, of a token or two each, and with one question of a
 * type in a line a small model did not learn it.
 */
export function textRecord(scene: Scene, seed: number): TextRecord {
  const random = new Random("text", seed, scene.split, scene.index);
  return {
    description: describe(scene, random),
    captions: captionScene(scene, random, 2),
    questions: askScene(scene, random, scene.split === "text" ? 18 : random.between(5, 6)),
    statements: stateScene(scene, random, STATEMENTS_PER_SCENE),
  };
}
