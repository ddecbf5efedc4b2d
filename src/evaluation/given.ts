/** What stands where the soft prompt of a picture would stand: the comparisons that tell where a text comes from. */
import { Random } from "../random.js";
import { describe, type Scene } from "../data/scenes/index.js";
import { readScenes } from "../data/scenes/read.js";
import { UserError } from "../errors.js";

/** The picture; nothing, which shows what the language model guesses; or a written description, which says all that there is. */
export type Given = "picture" | "nothing" | "description";

/**
 * What pictures show, by picture id: closed by a stop, as in the text that the language models of the scenes world learn
 * from, and the same each time. Throws a `UserError` where `scenes_<split>.json` lacks one of them.
 */
export async function descriptionsOf(
  ids: Iterable<number | string>,
  data: string,
  split: string,
): Promise<ReadonlyMap<number | string, string>> {
  const scenes = await readScenes(data, split);
  const wanted = [...new Set(ids)];
  const missing = wanted.filter((id) => !scenes.has(id as number));
  if (missing.length > 0) {
    throw new UserError(
      `${data}/scenes_${split}.json: ${missing.length} pictures have no scene to describe: ` +
        missing.slice(0, 5).join(", "),
    );
  }
  return new Map(
    wanted.map((id) => {
      // Records hold plain strings; describing them writes them down and nothing more.
      const scene = scenes.get(id as number) as Pick<Scene, "background" | "objects">;
      return [id, `${describe(scene, new Random("vqa", split, id))} .`];
    }),
  );
}
