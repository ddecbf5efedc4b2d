/** Folders of pictures with captions or questions, changed. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openData } from "../../src/data/open-data.js";
import { writeScenes } from "../../src/data/scenes/index.js";
import { changed, changedJson, notTheFile } from "./changes.js";
import type { Kind } from "./trial.js";

const files = ["captions_train.json", "questions_train.json", "annotations_train.json"];

export const dataSets: Kind = {
  name: "data-sets",
  title: "training data sets",
  rule:
    "A folder of twelve drawn pictures with captions, questions and answers, one of its files with values replaced, removed or added, or changed in some bytes. " +
    "Right: the pictures, captions and questions of the unchanged folder. Accepted: a changed folder in which every picture has a caption that is text.",
  count: 700,
  quick: 40,
  limit: 20_000,
  async prepare(folder) {
    const data = join(folder, "data");
    await mkdir(folder, { recursive: true });
    await writeScenes({
      out: data,
      seed: 3,
      count: 12,
      validation: 1,
      test: 1,
      compositional: 1,
      textCount: 2,
      textTestCount: 1,
    });
    const contents = new Map(
      await Promise.all(files.map(async (name) => [name, await readFile(join(data, name))] as const)),
    );
    const readAll = async (): Promise<{ said: string; unfit: boolean }> => {
      const split = openData(data, "train");
      const pictures = await split.captions({ onNotice: () => undefined });
      let [said, unfit] = ["", pictures.length === 0];
      for (let i = 0; i < pictures.length; i++) {
        const { id, captions } = await pictures.at(i);
        unfit ||=
          captions.length === 0 || captions.some((caption) => typeof caption !== "string" || caption === "");
        said += JSON.stringify([id, captions]);
      }
      const questions = await split.questions();
      await split.picturesOf(questions);
      return { said: said + JSON.stringify(questions), unfit };
    };
    const known = await readAll();
    return (random, index) => {
      const name = random.pick(files);
      const original = contents.get(name)!;
      const part = index % 10;
      let [form, content]: [string, string | Uint8Array] = ["whole", original];
      if (part === 1) [form, content] = random.pick(Object.entries(notTheFile));
      else if (part < 4) {
        const { what, bytes } = changed(original, random);
        [form, content] = part === 0 ? ["whole", original] : [what, bytes];
      } else {
        const other = changedJson(JSON.parse(original.toString()), random);
        [form, content] = [other.what, JSON.stringify(other.json)];
      }
      return {
        form,
        must: part === 0 ? "read" : part === 1 ? "refuse" : "either",
        run: async () => {
          for (const [file, bytes] of contents)
            await writeFile(join(data, file), file === name ? content : bytes);
          const { said, unfit } = await readAll();
          if (unfit) return "a picture without a caption";
          return part === 0 && said !== known.said ? "other pictures, captions or questions" : undefined;
        },
      };
    };
  },
};
