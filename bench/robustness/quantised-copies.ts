/** Quantised copies beside a checkpoint, as a stranger or a bad disk may leave them. */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { openQuantised, type Quantisation } from "../../src/checkpoints/quantised-file.js";
import { openSafetensors, writeSafetensors, type TensorFile } from "../../src/checkpoints/safetensors.js";
import { float32Tensor } from "../../src/host-tensor.js";
import { changed, notTheFile } from "./changes.js";
import { replaceFile } from "./model-folders.js";
import type { Kind } from "./trial.js";

const [n, k] = [6, 80];
const form: Quantisation["form"] = (name) =>
  name === "norm.weight" ? undefined : { bits: name === "a.weight" ? 8 : 4, table: name === "b.weight" };

async function bytesOf(file: TensorFile): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  for (const name of file.tensors.keys()) {
    const { data } = await file.read(name);
    found.set(name, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  }
  return found;
}

export const quantisedCopies: Kind = {
  name: "quantised-copies",
  title: "int8 and int4 copies",
  rule: "A copy beside its checkpoint, changed in some bytes, put in place from elsewhere, or of another checkpoint. Right: what is read then is byte for byte the copy of this checkpoint, made again where need be.",
  count: 500,
  quick: 30,
  limit: 20_000,
  async prepare(folder) {
    process.env["XDG_CACHE_HOME"] = join(folder, "cache");
    const source = async (name: string, step: number): Promise<TensorFile> => {
      const path = join(folder, name);
      const wave = (scale: number): Float32Array =>
        Float32Array.from({ length: n * k }, (_, i) => Math.fround(Math.sin(i * step * scale)));
      await writeSafetensors(path, {
        "a.weight": float32Tensor(wave(1), [n, k]),
        "b.weight": float32Tensor(wave(0.3), [n, k]),
        "norm.weight": float32Tensor([1, 2, 3], [3]),
      });
      return openSafetensors(path);
    };
    const options: Quantisation = { precision: "int8", form, onNotice: () => undefined };
    const file = await source("model.safetensors", 0.7);
    const place = join(folder, "blip2-int8.safetensors");
    const right = await bytesOf(await openQuantised(file, options));
    const copy = await readFile(place);
    await rm(place);
    await openQuantised(await source("other.safetensors", 1.3), options);
    const foreign = await readFile(place);
    return (random, index) => {
      const part = index % 10;
      let [what, bytes]: [string, Buffer] = ["whole", copy];
      if (part === 1) [what, bytes] = ["of another checkpoint", foreign];
      else if (part === 2) [what, bytes] = random.pick(Object.entries(notTheFile));
      else if (part > 2) ({ what, bytes } = changed(part === 9 ? foreign : copy, random));
      return {
        form: what,
        must: "read",
        run: async () => {
          await replaceFile(place, bytes);
          const found = await bytesOf(await openQuantised(file, options));
          for (const [name, expected] of right)
            if (!/seals|checksums/.test(name) && !found.get(name)?.equals(expected))
              return `${name} has other bytes`;
          return undefined;
        },
      };
    };
  },
};
