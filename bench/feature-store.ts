/**
 * `npm run bench -- feature-store`: writes a store of random image features at ViT-g's sizes, reads rows of it at random, and prints the
 * resident memory along the way.
 *
 * --pictures 20000  --folder FOLDER (default: a temporary one)  --batch 32
 */
import { mkdtemp, rm } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { featureBytes, FeatureStore, type FeatureDims } from "../src/loading/feature-store.js";

const [positions, width] = [257, 1408];
const size = positions * width;

const resident = (): string => `${(process.memoryUsage.rss() / 1e6).toFixed(0)} MB`;

/** What stands at a place of the store: told from the place, so that what is read can be checked. */
const markOf = (place: number): number => (place % 2000) / 16;

export async function featureStore(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      pictures: { type: "string", default: "20000" },
      folder: { type: "string" },
      batch: { type: "string", default: "32" },
    },
  });
  const [pictures, batch] = [Number(values.pictures), Number(values.batch)];
  const dims: FeatureDims = [pictures, positions, width];
  const folder = values.folder ?? (await mkdtemp(path.join(tmpdir(), "blip2-features-")));
  try {
    console.log(`${pictures} pictures, ${(featureBytes(dims) / 1e9).toFixed(1)} GB, on ${cpus()[0]!.model}`);
    const numbers = Float32Array.from({ length: size }, () => Math.random() * 8 - 4);
    const compute = (from: number, to: number): Promise<Float32Array> => {
      const rows = new Float32Array((to - from) * size);
      for (let place = from; place < to; place++) {
        rows.set(numbers, (place - from) * size);
        rows[(place - from) * size] = markOf(place);
      }
      return Promise.resolve(rows);
    };
    let told = 0;
    const onPictures = (done: number): void => {
      if (done / pictures < told / 10) return;
      console.log(`written ${String(Math.round((100 * done) / pictures)).padStart(3)} %: ${resident()}`);
      told = Math.floor((10 * done) / pictures) + 1;
    };
    const nameOf = (place: number): Promise<string> => Promise.resolve(`picture ${place}`);
    const begun = performance.now();
    const store = await FeatureStore.make(folder, { dims, compute, nameOf }, { onPictures });
    const wrote = (performance.now() - begun) / 1000;
    const batches = 200;
    for (let i = 0; i < batches; i++) {
      const places = Array.from({ length: batch }, () => Math.floor(Math.random() * pictures));
      const { data } = await store.rows(places);
      const wrong = places.findIndex((place, row) => data[row * size] !== markOf(place));
      if (wrong >= 0) throw new Error(`other features at place ${places[wrong]}`);
      if (i % 40 === 39) console.log(`read ${((i + 1) * batch).toString().padStart(6)} rows: ${resident()}`);
    }
    const all = (performance.now() - begun) / 1000;
    const highest = process.resourceUsage().maxRSS / 1e3;
    console.log(
      `written in ${wrote.toFixed(0)} s, ${batches * batch} rows read in ${(all - wrote).toFixed(0)} s; at most ${highest.toFixed(0)} MB`,
    );
    await store.close();
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
