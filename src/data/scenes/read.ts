/** What a scenes folder says about its words and about where things stand in its pictures. */
import { access } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { readJson } from "../../files/json-file.js";
import { longestList } from "../formats/coco.js";

const worldSchema = z.object({
  picture_size: z.number(),
  size_pixels: z.record(z.string(), z.number()),
  kinds: z.array(z.string()),
  colors: z.array(z.string()),
  sizes: z.array(z.string()),
  backgrounds: z.array(z.string()),
  /** Pairs that only the compositional split shows. */
  held_out: z.array(z.object({ kind: z.string(), color: z.string() })).optional(),
});

export type WorldDescription = z.infer<typeof worldSchema>;

const objectSchema = z.object({
  kind: z.string(),
  color: z.string(),
  size: z.string(),
  x: z.number(),
  y: z.number(),
});
const scenesSchema = z.object({
  scenes: z.array(z.object({ index: z.number(), background: z.string(), objects: z.array(objectSchema) })),
});

/** The exact content of one picture. */
export type SceneRecord = z.infer<typeof scenesSchema>["scenes"][number];

/** `scenes.json`. Throws a `UserError` if the folder was not made by `blip2 scenes`. */
export async function readWorld(folder: string): Promise<WorldDescription> {
  const path = join(folder, "scenes.json");
  return readJson(path, worldSchema, "the description of a scenes world");
}

/** The same where the folder has one. */
export async function findWorld(folder: string): Promise<WorldDescription | undefined> {
  const isThere = await access(join(folder, "scenes.json")).then(
    () => true,
    () => false,
  );
  return isThere ? readWorld(folder) : undefined;
}

/** `scenes_<split>.json`, by picture id. */
export async function readScenes(folder: string, split: string): Promise<ReadonlyMap<number, SceneRecord>> {
  const path = join(folder, `scenes_${split}.json`);
  const { scenes } = await readJson(path, scenesSchema, "a list of scenes", { longest: longestList });
  return new Map(scenes.map((scene) => [scene.index, scene]));
}
