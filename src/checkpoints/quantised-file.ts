/**
 * Quantised copies of checkpoints. A copy is made once, tensor by tensor, and kept as a safetensors file beside the
 * checkpoint (or in the user's cache folder, where the checkpoint's cannot be written). It is whole: what is not
 * quantised is in it as it was. Names: a matrix `x` has its values in `x.int8` or `x.int4` and its scales in
 * `x.scales`; `x` itself is there too where it also serves as a table.
 *
 * A copy is used again only if it was made of this source: of files with these sizes, times and headers, whose tensors
 * begin and end with these bytes. (Times alone would not do, as package managers set them all alike; to hash whole files would
 * take longer than to load them.) And only if this user made it: whoever ships a model could put a copy beside it. So
 * its tensors must be those that the source asks for, and their seals (`copy-seal.ts`) are compared each time it is
 * opened. What does not fit is made anew, in its place, or elsewhere if it is another user's.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { open, stat, type FileHandle } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { UserError, stopIf } from "../errors.js";
import { bytesPerElement, elementCount, type HostTensor } from "../host-tensor.js";
import { codeOf } from "../files/atomic-write.js";
import { readBytes, withFile } from "../files/byte-source.js";
import { copyLayout, layoutProblem, sealsName, type CopiedForm, type CopyLayout } from "./copy-layout.js";
import { cacheFolder, cacheRemedy, ownSecret, Seal, sealLength } from "./copy-seal.js";
import { toFloat32 } from "../float16.js";
import { Int4Matrix, int4Block, Int8Matrix } from "./quantise.js";
import {
  fillSafetensors,
  openSafetensors,
  type DeclaredTensor,
  type TensorEntry,
  type TensorFile,
  type WriteTensor,
} from "./safetensors.js";

export { frozenValues } from "./copy-layout.js";

export interface Quantisation {
  /** Names the copy: `int8`, `int4`. */
  readonly precision: string;
  /** How a tensor is held; undefined: as it is. */
  readonly form: (name: string, dims: readonly number[]) => CopiedForm;
  /** Tensors that are left out. */
  readonly ignored?: (name: string) => boolean;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: QuantisationProgress) => void) | undefined;
  /** Is told why a copy is not where it is looked for first, or is made again. */
  readonly onNotice?: ((notice: string) => void) | undefined;
}

export interface QuantisationProgress {
  readonly detail: "check" | "quantise";
  /** Bytes so far, and in all. */
  readonly step: number;
  readonly total: number;
}

const version = "2";
/** Float32 values at hand at a time. */
const chunk = 2 ** 20;

/** What a copy must be: made by this user, of this source, with these tensors. */
interface Wanted {
  readonly secret: Uint8Array;
  /** Identifies the source. */
  readonly key: string;
  readonly layout: CopyLayout;
}

/**
 * The quantised copy of `source`, made first if there is none that fits. Read its tensors with `frozenValues`.
 * Throws `UserError` if no copy can be written, or a weight cannot be quantised; `InterruptedError` on `signal`.
 */
export async function openQuantised(source: TensorFile, options: Quantisation): Promise<TensorFile> {
  const { precision, onNotice } = options;
  const key = await sourceKey(source, options);
  const { secret, problem } = await ownSecret();
  const layout = copyLayout(source, (name) => isKept(name, options), options.form);
  const wanted: Wanted = { secret, key, layout };
  const cache = cacheFolder();
  const places = [join(dirname(source.path), `blip2-${precision}.safetensors`)];
  if (cache !== undefined && problem === undefined)
    places.push(join(cache, `${key.slice(0, 32)}-${precision}.safetensors`));
  const notices: string[] = [];
  const free: string[] = [];
  for (const place of places) {
    const found = await openCopy(place, wanted, options);
    if (typeof found === "object") return found;
    if (found !== undefined && (await isOfAnother(place))) {
      notices.push(`${place}: ${found}; it is another user's and left as it is`);
      continue;
    }
    if (found !== undefined) notices.push(`${place}: ${found}; it is made again`);
    free.push(place);
  }
  // Without a key that is kept no copy of before is known again: one reason for all, told once there is a copy.
  if (problem === undefined) for (const notice of notices) onNotice?.(notice);
  const refusals: string[] = [];
  for (const place of free) {
    try {
      await writeCopy(place, source, wanted, options);
    } catch (error) {
      const code = codeOf(error) ?? (error instanceof UserError ? codeOf(error.cause) : undefined);
      if (code === undefined) throw error;
      refusals.push(`${dirname(place)}: ${code}`);
      continue;
    }
    if (refusals.length > 0) {
      onNotice?.(
        `the ${precision} copy of ${source.path} is kept in ${place}, as its own folder cannot take it (${refusals.join(", ")})`,
      );
    }
    if (problem !== undefined) {
      onNotice?.(
        `the key by which ${precision} copies are known again cannot be kept (${problem}), so every process makes its own; ${cacheRemedy}`,
      );
    }
    return openSafetensors(place);
  }
  if (problem !== undefined) refusals.push(problem);
  throw new UserError(
    `${source.path}: there is no place for its ${precision} copy (${refusals.join(", ") || "those there are another user's"}); ${cacheRemedy}`,
  );
}

/** Whether the bytes in the file are the tensor, so that it can be mapped; others come about when they are read. */
export const liesAsItIs = ({ offset, computed }: TensorEntry): boolean => offset >= 0 && computed !== true;

const isKept = (name: string, { ignored }: Quantisation): boolean => ignored?.(name) !== true;

/** A hash of what the copy depends on. */
async function sourceKey(source: TensorFile, options: Quantisation): Promise<string> {
  const hash = createHash("sha256");
  hash.update(JSON.stringify([version, options.precision, int4Block]));
  const byFile = new Map<string, [string, TensorEntry][]>();
  for (const [name, entry] of source.tensors) {
    if (!isKept(name, options)) continue;
    byFile.set(entry.file, [...(byFile.get(entry.file) ?? []), [name, entry]]);
  }
  for (const [path, entries] of byFile) {
    const file = await open(path, "r");
    try {
      const { size, mtimeMs } = await file.stat();
      hash.update(JSON.stringify([basename(path), size, mtimeMs]));
      for (const [name, { dtype, dims, offset, length }] of entries) {
        hash.update(JSON.stringify([name, dtype, dims, offset, options.form(name, dims) ?? null]));
        const start = Math.max(0, offset);
        const some = Math.min(length, 1024, size - start);
        hash.update(await readAt(file, path, start, some));
        const end = Math.min(start + length, size);
        hash.update(await readAt(file, path, end - some, some));
      }
    } finally {
      await file.close();
    }
  }
  return hash.digest("hex");
}

/** The copy at `place` if it is the one that is wanted; why it is not; undefined if there is none. */
async function openCopy(
  place: string,
  wanted: Wanted,
  options: Quantisation,
): Promise<TensorFile | string | undefined> {
  try {
    await stat(place);
  } catch {
    return undefined;
  }
  try {
    const file = await openSafetensors(place);
    const { version: made, source } = file.metadata;
    if (made !== version) return "is of another version of blip2";
    if (source !== wanted.key) return "was made of other weights";
    const declared = withSeals(wanted.layout.declared);
    const problem = layoutProblem(file, declared, notes(wanted));
    if (problem !== undefined) return problem;
    return (await isSealed(file, wanted, options))
      ? file
      : "is damaged (a checksum differs), or was not made by this user";
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return "is damaged";
  }
}

/** Whether the file at `place` is not this user's to replace. */
async function isOfAnother(place: string): Promise<boolean> {
  if (process.getuid === undefined) return false;
  const found = await stat(place).catch(() => undefined);
  return found !== undefined && found.uid !== process.getuid();
}

const notes = ({ key, layout }: Wanted): Record<string, string> => ({
  format: "blip2-quantised",
  version,
  source: key,
  ...layout.metadata,
});

const withSeals = (declared: readonly DeclaredTensor[]): readonly DeclaredTensor[] => [
  ...declared,
  [sealsName, { dtype: "uint8", dims: [sealLength * declared.length] }],
];

/** The tensors in the order of their seals. */
const inSealOrder = (declared: readonly DeclaredTensor[]): readonly DeclaredTensor[] =>
  declared.toSorted(([a], [b]) => (a < b ? -1 : 1));

async function isSealed(
  file: TensorFile,
  { secret, key, layout }: Wanted,
  { signal, onProgress }: Quantisation,
): Promise<boolean> {
  const seals = (await file.read(sealsName)).data as Uint8Array;
  const total = layout.declared.reduce((sum, [name]) => sum + file.tensors.get(name)!.length, 0);
  const most = 2 ** 22;
  let step = 0;
  return withFile(file.path, async (handle) => {
    for (const [i, [name, tensor]] of inSealOrder(layout.declared).entries()) {
      const { offset, length } = file.tensors.get(name)!;
      const seal = new Seal(secret, key, name, tensor);
      for (let done = 0; done < length; done += most) {
        stopIf(signal);
        const size = Math.min(most, length - done);
        seal.add(await readBytes(handle, file.path, offset + done, size));
        step += size;
        onProgress?.({ detail: "check", step, total });
      }
      if (!timingSafeEqual(seal.code(), seals.subarray(sealLength * i, sealLength * (i + 1)))) return false;
    }
    return true;
  });
}

async function writeCopy(
  place: string,
  source: TensorFile,
  wanted: Wanted,
  options: Quantisation,
): Promise<void> {
  const { plan, declared } = wanted.layout;
  const seals = new Map(
    inSealOrder(declared).map(([name, tensor]) => [name, new Seal(wanted.secret, wanted.key, name, tensor)]),
  );
  const total = plan.reduce((sum, { entry }) => sum + entry.length, 0);
  let step = 0;
  await fillSafetensors(place, withSeals(declared), notes(wanted), async (write) => {
    const put: WriteTensor = async (name, bytes) => {
      seals.get(name)!.add(bytes);
      await write(name, bytes);
    };
    for (const { name, entry, form } of plan) {
      const matrix =
        form && (form.bits === 8 ? new Int8Matrix(...sides(entry)) : new Int4Matrix(...sides(entry)));
      for await (const piece of pieces(source, name, entry, options.signal)) {
        if (form === undefined || form.table) await put(name, piece);
        if (matrix !== undefined && !matrix.add(asFloat32(entry, piece))) {
          throw new UserError(
            `${source.path}: tensor ${JSON.stringify(name)} holds values that are not finite and cannot be quantised; use the precision fp32`,
          );
        }
        step += piece.length;
        options.onProgress?.({ detail: "quantise", step, total });
        // Others may want the thread, a timer for example.
        await setImmediate();
      }
      if (matrix === undefined) continue;
      await put(`${name}.${form!.bits === 8 ? "int8" : "int4"}`, bytesOf(matrix.values));
      await put(`${name}.scales`, bytesOf(matrix.scales));
    }
    await write(sealsName, Buffer.concat([...seals.values()].map((seal) => seal.code())));
  });
}

const sides = ({ dims }: TensorEntry): [number, number] => [dims[0]!, dims[1]!];

const bytesOf = ({ buffer, byteOffset, byteLength }: Int8Array | Uint8Array | Float32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** A tensor's bytes, some whole rows at a time. */
async function* pieces(
  source: TensorFile,
  name: string,
  entry: TensorEntry,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const { file: path, dtype, dims, offset, length } = entry;
  if (length === 0) return;
  try {
    if (!liesAsItIs(entry)) {
      const { data } = await source.read(name);
      yield new Uint8Array(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      return;
    }
    const row = elementCount(dims.slice(1)) * bytesPerElement[dtype];
    const most = Math.max(1, Math.floor((chunk * bytesPerElement[dtype]) / row)) * row;
    const file = await open(path, "r");
    try {
      for (let done = 0; done < length; done += most) {
        stopIf(signal);
        yield await readAt(file, path, offset + done, Math.min(most, length - done));
      }
    } finally {
      await file.close();
    }
  } catch (error) {
    // Without a system's code: that would say that the copy's place is at fault.
    const code = codeOf(error) ?? (error instanceof UserError ? codeOf(error.cause) : undefined);
    if (code === undefined) throw error;
    throw new UserError(error instanceof UserError ? error.message : `${path}: cannot be read (${code})`);
  }
}

function asFloat32({ dtype }: TensorEntry, bytes: Uint8Array<ArrayBuffer>): Float32Array {
  const count = bytes.length / bytesPerElement[dtype];
  const data = dtype === "float32" ? new Float32Array(bytes.buffer) : new Uint16Array(bytes.buffer);
  const tensor: HostTensor = { dtype, dims: [count], data };
  return toFloat32(tensor).data as Float32Array;
}

async function readAt(
  file: FileHandle,
  path: string,
  position: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(new ArrayBuffer(length));
  for (let done = 0; done < length;) {
    const { bytesRead } = await file.read(bytes, done, length - done, position + done);
    if (bytesRead === 0)
      throw new UserError(`${path}: ends at byte ${position + done}; it changed or is truncated`);
    done += bytesRead;
  }
  return bytes;
}
