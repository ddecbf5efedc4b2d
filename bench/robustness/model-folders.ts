/** Model folders whose config.json was changed: loaded, and asked for a caption. */
import { copyFile, link, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Blip2 } from "../../src/index.js";
import { inRepository } from "../repository.js";
import { changed, changedJson, notTheFile } from "./changes.js";
import type { Kind } from "./trial.js";

/** A copy of a model folder; large files are the same on the disk. */
export async function copyModel(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  for (const name of await readdir(from)) {
    const [source, target] = [join(from, name), join(to, name)];
    await link(source, target).catch(() => copyFile(source, target));
  }
}

/** Puts another file in the place of one, which others may share. */
export async function replaceFile(path: string, content: string | Uint8Array): Promise<void> {
  await rm(path, { force: true });
  await writeFile(path, content);
}

export const modelFolders: Kind = {
  name: "model-folders",
  title: "model folders with another `config.json`",
  rule:
    "`models/scenes-opt` with one to three values of its config.json replaced, removed or added, or the file changed in some bytes; loaded, and asked for a caption. " +
    "Right: the caption of the unchanged model, from the unchanged files. Accepted: any text from a configuration that its weights fit.",
  count: 300,
  quick: 8,
  each: 100,
  limit: 60_000,
  async prepare(folder) {
    const original = inRepository("models/scenes-opt");
    const model = join(folder, "model");
    await copyModel(original, model);
    const image = inRepository("samples/test-1.png");
    const configBytes = await readFile(join(original, "config.json"));
    const caption = async (path: string): Promise<string> => {
      await using loaded = await Blip2.load(path, { threads: 1, onNotice: () => undefined });
      return (await loaded.generate({ image, numBeams: 1, maxNewTokens: 12 })).text;
    };
    const known = await caption(original);
    return (random, index) => {
      const part = index % 10;
      let [form, content]: [string, string | Uint8Array] = ["whole", configBytes];
      if (part === 1) [form, content] = random.pick(Object.entries(notTheFile));
      else if (part > 7) {
        const { what, bytes } = changed(configBytes, random);
        [form, content] = [what, bytes];
      } else if (part > 1) {
        let json = JSON.parse(configBytes.toString()) as unknown;
        for (let i = random.between(1, 3); i > 0; i--) ({ json, what: form } = changedJson(json, random));
        content = JSON.stringify(json);
      }
      return {
        form,
        must: part === 0 ? "read" : part === 1 ? "refuse" : "either",
        run: async () => {
          await replaceFile(join(model, "config.json"), content);
          const found = await caption(model);
          return part === 0 && found !== known ? `the caption "${found}"` : undefined;
        },
      };
    };
  },
};
