/**
 * Quantised copies of checkpoints. A copy is made once, tensor by tensor, and kept as a safetensors file beside the
 * checkpoint (or in the user's cache folder, where the checkpoint's cannot be written). It is whole: what is not
 * quantised is in it as it was. Names: a matrix `x` has its values in `x.int8` or `x.int4` and its scales in
 * `x.scales`; `x` itself is there too where it also serves as a table.
 *
 * A copy is used again only if it was made of this source: of files with these sizes, times and headers, whose tensors
 * begin with these bytes. (Times alone would not do, as package managers set them all alike; to hash whole files would
 * take longer than to load them.) Checksums of all its tensors are compared each time it is opened, and a copy that
 * does not fit is made anew.
 */
import { createHash } from "node:crypto";
import { open, stat, type FileHandle } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { InternalError, InterruptedError, UserError } from "../errors.js";
import { bytesPerElement, elementCount, type FrozenValue, type HostTensor } from "../host-tensor.js";
import { codeOf } from "../files/atomic-write.js";
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

export interface Quantisation {
  /** Names the copy: `int8`, `int4`. */
  readonly precision: string;
  /** How a tensor is held; undefined: as it is. */
  readonly form: (
    name: string,
    dims: readonly number[],
  ) => { readonly bits: 8 | 4; readonly table: boolean } | undefined;
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

const version = "1";
const checksumsName = "blip2.checksums";
/** Float32 values at hand at a time. */
const chunk = 2 ** 20;

/**
 * The quantised copy of `source`, made first if there is none that fits. Read its tensors with `frozenValues`.
 * Throws `UserError` if no copy can be written, or a weight is not finite; `InterruptedError` on `signal`.
 */
export async function openQuantised(source: TensorFile, options: Quantisation): Promise<TensorFile> {
  const key = await sourceKey(source, options);
  const places = [
    join(dirname(source.path), `blip2-${options.precision}.safetensors`),
    join(cacheFolder(), `${key.slice(0, 32)}-${options.precision}.safetensors`),
  ];
  for (const place of places) {
    const found = await openCopy(place, key, options);
    if (found !== undefined) return found;
  }
  for (const [i, place] of places.entries()) {
    try {
      await writeCopy(place, source, key, options);
      return await openSafetensors(place);
    } catch (error) {
      const isLast = i === places.length - 1;
      const code = error instanceof UserError ? codeOf(error.cause) : undefined;
      if (isLast || !["EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT"].includes(code ?? "")) throw error;
      options.onNotice?.(
        `the ${options.precision} copy of ${source.path} is kept in ${places[i + 1]}, as its own folder cannot take it (${code})`,
      );
    }
  }
  throw new InternalError("openQuantised: there is no place left");
}

/** The values of the named weights, where they lie. */
export function frozenValues(file: TensorFile, names: Iterable<string>): Map<string, FrozenValue> {
  const values = new Map<string, FrozenValue>();
  for (const name of names) {
    const table = file.tensors.get(name);
    const scales = file.tensors.get(`${name}.scales`);
    const form = (["int8", "int4"] as const).find((suffix) => file.tensors.has(`${name}.${suffix}`));
    if (form !== undefined && scales !== undefined) {
      const quantised = file.tensors.get(`${name}.${form}`)!;
      const n = scales.dims[0]!;
      const k = form === "int8" ? quantised.dims[0]! : Number(file.metadata[`${name}.k`]);
      values.set(name, {
        quantised: form,
        dims: [n, k],
        values: quantised,
        scales,
        ...(table && { table }),
      });
    } else if (table !== undefined) values.set(name, table);
    else throw new UserError(`${file.path}: has no tensor ${JSON.stringify(name)}`);
  }
  return values;
}

function cacheFolder(): string {
  return join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "blip2", "quantised");
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
        hash.update(await readAt(file, path, start, Math.min(length, 1024, size - start)));
      }
    } finally {
      await file.close();
    }
  }
  return hash.digest("hex");
}

/** The copy at `place`, if it is one of this source, and sound. */
async function openCopy(place: string, key: string, options: Quantisation): Promise<TensorFile | undefined> {
  try {
    await stat(place);
  } catch {
    return undefined;
  }
  const remake = (why: string): undefined => {
    options.onNotice?.(`${place}: ${why}; it is made again`);
  };
  let file: TensorFile;
  try {
    file = await openSafetensors(place);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return remake("is damaged");
  }
  if (file.metadata["source"] !== key) return remake("was made of other weights");
  if (!(await hasRightChecksums(file, options))) return remake("is damaged (a checksum differs)");
  return file;
}

/** Entries in the order in which their checksums are kept. */
function checked(tensors: TensorFile["tensors"]): [string, TensorEntry][] {
  return [...tensors].filter(([name]) => name !== checksumsName).sort(([a], [b]) => (a < b ? -1 : 1));
}

async function hasRightChecksums(file: TensorFile, { signal, onProgress }: Quantisation): Promise<boolean> {
  if (!file.tensors.has(checksumsName)) return false;
  const { data } = await file.read(checksumsName);
  const expected = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const entries = checked(file.tensors);
  if (data.byteLength !== 4 * entries.length) return false;
  const total = entries.reduce((sum, [, { length }]) => sum + length, 0);
  const handle = await open(file.path, "r");
  let step = 0;
  try {
    const buffer = Buffer.alloc(2 ** 22);
    for (const [i, [, { offset, length }]] of entries.entries()) {
      let sum = 0;
      for (let done = 0; done < length;) {
        stopIf(signal);
        const { bytesRead } = await handle.read(
          buffer,
          0,
          Math.min(buffer.length, length - done),
          offset + done,
        );
        if (bytesRead === 0) return false;
        sum = crc32(buffer.subarray(0, bytesRead), sum);
        done += bytesRead;
        step += bytesRead;
        onProgress?.({ detail: "check", step, total });
      }
      if (expected.getUint32(4 * i, true) !== sum) return false;
    }
  } finally {
    await handle.close();
  }
  return true;
}

async function writeCopy(
  place: string,
  source: TensorFile,
  key: string,
  options: Quantisation,
): Promise<void> {
  const plan = [...source.tensors]
    .filter(([name]) => isKept(name, options))
    .map(([name, entry]) => ({ name, entry, form: options.form(name, entry.dims) }));
  const declared: DeclaredTensor[] = [];
  const metadata: Record<string, string> = { format: "blip2-quantised", version, source: key };
  for (const { name, entry, form } of plan) {
    if (form === undefined || form.table) declared.push([name, entry]);
    if (form === undefined) continue;
    const [n, k] = entry.dims as [number, number];
    const blocks = Math.ceil(k / int4Block);
    if (form.bits === 8) {
      declared.push([`${name}.int8`, { dtype: "int8", dims: [k, n] }]);
      declared.push([`${name}.scales`, { dtype: "float32", dims: [n] }]);
    } else {
      declared.push([`${name}.int4`, { dtype: "uint8", dims: [n, blocks, int4Block / 2] }]);
      declared.push([`${name}.scales`, { dtype: "float32", dims: [n, blocks] }]);
      metadata[`${name}.k`] = String(k);
    }
  }
  const names = declared.map(([name]) => name).sort();
  const order = new Map(names.map((name, i) => [name, i]));
  const checksums = new DataView(new ArrayBuffer(4 * names.length));
  declared.push([checksumsName, { dtype: "uint8", dims: [checksums.byteLength] }]);
  const total = plan.reduce((sum, { entry }) => sum + entry.length, 0);
  let step = 0;
  await fillSafetensors(place, declared, metadata, async (write) => {
    const put: WriteTensor = async (name, bytes) => {
      const at = 4 * order.get(name)!;
      checksums.setUint32(at, crc32(bytes, checksums.getUint32(at, true)), true);
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
    await write(checksumsName, new Uint8Array(checksums.buffer));
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

function stopIf(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new InterruptedError("stopped on request");
}
