/**
 * Image features on disk, as float16, in parts of at most 256 MB: written part by part, so that no split has to fit into memory
 * and a stop loses one part at most, and read by rows. Who fills it says under which key; another key is another store.
 *
 * Shapes: N pictures, B of them, P image positions, D_img image width.
 */
import { mkdir, open, readdir, readFile, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { fillSafetensors, openSafetensors } from "../checkpoints/safetensors.js";
import { InternalError, UserError } from "../errors.js";
import { codeOf, writeFileAtomic } from "../files/atomic-write.js";
import { float32ToHalf, halfToFloat32 } from "../float16.js";
import { float32Tensor, type HostTensor } from "../host-tensor.js";

/** N, P and D_img. */
export type FeatureDims = readonly [pictures: number, positions: number, width: number];

export interface FeatureSource {
  readonly dims: FeatureDims;
  /**
   * Features of the pictures from `from` to `to`: float32 [to - from, P, D_img]. A picture that has none gets a row of NaN, and is
   * counted as broken.
   */
  compute(from: number, to: number): Promise<Float32Array>;
  /** Names a picture in errors. */
  nameOf(picture: number): Promise<string>;
}

export interface FillHooks {
  /** Called with the number of pictures that are there. */
  readonly onPictures?: (done: number) => void;
  /** Pictures that are computed at once. Default: 64. */
  readonly atOnce?: number;
  /** Bytes of a part. Default: 256 MB; a part has at least one picture. */
  readonly partBytes?: number;
}

const indexName = "index.json";
const mostOpenFiles = 32;

const indexSchema = z.strictObject({
  dims: z.tuple([z.int().positive(), z.int().positive(), z.int().positive()]),
  picturesPerPart: z.int().positive(),
  broken: z.array(z.int().nonnegative()),
});

const partName = (part: number): string => `${String(part).padStart(6, "0")}.safetensors`;

interface OpenPart {
  readonly file: FileHandle;
  /** Where its first row begins. */
  readonly offset: number;
}

/** Bytes that a store takes. */
export const featureBytes = ([pictures, positions, width]: FeatureDims): number =>
  pictures * positions * width * 2;

export class FeatureStore {
  /** Parts read lately, the last one last. */
  private readonly files = new Map<number, OpenPart>();

  private reading: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly folder: string,
    readonly dims: FeatureDims,
    private readonly picturesPerPart: number,
    /** Places of pictures that have no features. */
    readonly broken: readonly number[],
  ) {}

  /** The complete store in `folder`, if there is one. Throws a `UserError` if what is there is something else. */
  static async find(folder: string): Promise<FeatureStore | undefined> {
    const path = join(folder, indexName);
    const text = await readFile(path, "utf8").catch((error: unknown) => {
      if (codeOf(error) === "ENOENT") return undefined;
      throw new UserError(`${path}: cannot be read (${codeOf(error)})`, { cause: error });
    });
    if (text === undefined) return undefined;
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      json = undefined;
    }
    const parsed = indexSchema.safeParse(json);
    if (!parsed.success)
      throw new UserError(`${path}: is not the index of a feature store; delete the folder`);
    return new FeatureStore(folder, parsed.data.dims, parsed.data.picturesPerPart, parsed.data.broken);
  }

  /**
   * Makes the store in `folder`, going on with the parts that an earlier try left. Two processes that make the same one do the work
   * twice and do no harm: parts are renamed into place whole, and equal.
   * Throws a `UserError` that names the picture whose features float16 cannot hold, or the folder if it cannot be written.
   */
  static async make(folder: string, source: FeatureSource, hooks: FillHooks = {}): Promise<FeatureStore> {
    const { dims } = source;
    const [count, positions, width] = dims;
    const { atOnce = 64, partBytes = 2 ** 28, onPictures } = hooks;
    const size = positions * width;
    const picturesPerPart = Math.max(1, Math.floor(partBytes / (size * 2)));
    await mkdir(folder, { recursive: true }).catch((error: unknown) => {
      throw new UserError(
        `${folder}: image features cannot be kept here (${codeOf(error)}); name another folder for them`,
        { cause: error },
      );
    });
    const there = new Set(await readdir(folder));
    for (let part = 0; part * picturesPerPart < count; part++) {
      const first = part * picturesPerPart;
      const end = Math.min(count, first + picturesPerPart);
      const path = join(folder, partName(part));
      if (!there.has(partName(part)) || !(await isWhole(path, [end - first, positions, width]))) {
        const declared = { dtype: "float16", dims: [end - first, positions, width] } as const;
        await fillSafetensors(path, [["features", declared]], { format: "pt" }, async (write) => {
          for (let from = first; from < end; from += atOnce) {
            const to = Math.min(end, from + atOnce);
            const values = await source.compute(from, to);
            if (values.length !== (to - from) * size)
              throw new InternalError(`feature store: ${values.length} values for ${to - from} pictures`);
            const { halves, overflow } = float32ToHalf(values);
            if (overflow >= 0)
              throw new UserError(
                `the image encoder gives values beyond float16 for ${await source.nameOf(from + Math.floor(overflow / size))}`,
              );
            await write("features", new Uint8Array(halves.buffer, halves.byteOffset, halves.byteLength));
            onPictures?.(to);
          }
        });
      } else onPictures?.(end);
    }
    const broken = await new FeatureStore(folder, dims, picturesPerPart, []).findBroken();
    await writeFileAtomic(join(folder, indexName), `${JSON.stringify({ dims, picturesPerPart, broken })}\n`);
    return new FeatureStore(folder, dims, picturesPerPart, broken);
  }

  /** Features of pictures by place: float32 [B, P, D_img]. */
  rows(places: readonly number[]): Promise<HostTensor> {
    // One after the other: a file that one call reads must not be closed for another.
    const reading = this.reading.then(() => this.readRows(places));
    this.reading = reading.catch(() => undefined);
    return reading;
  }

  private async readRows(places: readonly number[]): Promise<HostTensor> {
    const [, positions, width] = this.dims;
    const size = positions * width;
    const halves = new Uint16Array(places.length * size);
    for (const [row, place] of places.entries()) {
      const part = Math.floor(place / this.picturesPerPart);
      const { file, offset } = await this.opened(part);
      const target = new Uint8Array(halves.buffer, row * size * 2, size * 2);
      const at = offset + (place - part * this.picturesPerPart) * size * 2;
      const { bytesRead } = await file.read(target, 0, target.length, at);
      if (bytesRead < target.length)
        throw new UserError(`${join(this.folder, partName(part))}: is truncated; delete the folder`);
    }
    return float32Tensor(halfToFloat32(halves), [places.length, positions, width]);
  }

  /** The places whose rows begin with NaN. */
  private async findBroken(): Promise<number[]> {
    const [count, positions, width] = this.dims;
    const broken: number[] = [];
    const first = new Uint8Array(2);
    try {
      for (let place = 0; place < count; place++) {
        const part = Math.floor(place / this.picturesPerPart);
        const { file, offset } = await this.opened(part);
        const row = place - part * this.picturesPerPart;
        await file.read(first, 0, 2, offset + row * positions * width * 2);
        const bits = first[0]! | (first[1]! << 8);
        if ((bits & 0x7fff) > 0x7c00) broken.push(place);
      }
    } finally {
      await this.close();
    }
    return broken;
  }

  private async opened(part: number): Promise<OpenPart> {
    const known = this.files.get(part);
    this.files.delete(part);
    const opening = known ?? (await this.openPart(part));
    this.files.set(part, opening);
    if (this.files.size > mostOpenFiles) {
      const [oldest, { file }] = this.files.entries().next().value!;
      this.files.delete(oldest);
      await file.close();
    }
    return opening;
  }

  private async openPart(part: number): Promise<OpenPart> {
    const path = join(this.folder, partName(part));
    const entry = (await openSafetensors(path)).tensors.get("features");
    const first = part * this.picturesPerPart;
    const [count, positions, width] = this.dims;
    const wanted = [Math.min(count, first + this.picturesPerPart) - first, positions, width];
    if (entry === undefined || entry.dims.join() !== wanted.join() || entry.dtype !== "float16")
      throw new UserError(`${path}: is no part of this feature store; delete the folder`);
    return { file: await open(path), offset: entry.offset };
  }

  async close(): Promise<void> {
    await this.reading;
    const files = [...this.files.values()];
    this.files.clear();
    for (const { file } of files) await file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function isWhole(path: string, dims: readonly number[]): Promise<boolean> {
  try {
    const entry = (await openSafetensors(path)).tensors.get("features");
    return entry?.dtype === "float16" && entry.dims.join() === dims.join();
  } catch {
    return false;
  }
}
