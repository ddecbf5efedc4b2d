/**
 * Captions with one word changed, as wrong texts of the contrastive training: a batch's own captions are told
 * apart by a few words, altered ones only by every word.
 */
import type { Random } from "../../random.js";
import type { WorldDescription } from "../../data/scenes/read.js";
import { pluralOf, type SeenPairs } from "./seen-pairs.js";

/** Groups of words of which one can stand for another, to alter captions with. */
export function wordGroups(world: WorldDescription): readonly (readonly string[])[] {
  return [
    world.kinds,
    world.kinds.map(pluralOf),
    world.colors,
    world.sizes,
    world.backgrounds,
    ["left", "right"],
    ["top", "bottom"],
    ["above", "below"],
  ];
}

/**
 * The caption with one word replaced by another of its group; unchanged if it has no such word. With `seen`, no
 * replacement makes a pair of colour and kind that the data never shows: being always wrong, such a text
 * would teach that the pair does not exist.
 */
export function alterCaption(
  caption: string,
  groups: readonly (readonly string[])[],
  random: Random,
  seen?: SeenPairs,
): string {
  const words = caption.split(/(?<=\b)|(?=\b)/);
  const replaced = (place: number, word: string): string => words.with(place, word).join("");
  const changes = words.flatMap((word, place) => {
    const group = groups.find((members) => members.includes(word));
    const texts = (group ?? [])
      .filter((other) => other !== word)
      .map((other) => replaced(place, other))
      .filter((text) => seen?.namesUnseen(text) !== true);
    return texts.length === 0 ? [] : [texts];
  });
  return changes.length === 0 ? caption : random.pick(random.pick(changes));
}

/** The caption of a picture without its colours: colour words are left out. */
export function withoutColors(caption: string, colors: readonly string[]): string {
  return caption
    .replace(new RegExp(`\\b(?:${colors.join("|")}) `, "g"), "")
    .replace(/\ban? (?=\w)/g, article);
}

/** "a" or "an", as the next word wants it. */
function article(_: string, place: number, text: string): string {
  return /^an? [aeiou]/.test(text.slice(place)) ? "an " : "a ";
}
