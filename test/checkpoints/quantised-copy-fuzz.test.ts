/** A copy of which any bytes have changed: made again, or its tensors are the same. */
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { TensorFile } from "../../src/checkpoints/safetensors.js";
import { bytesOf, copyFolders, opened, source, type Folders } from "./copied-model.js";

let folders: Folders;
beforeEach(async () => {
  folders = await copyFolders();
});
afterEach(() => folders.remove());

/** Edits of a file: bytes written, cut out, doubled, or moved from elsewhere. */
const edit = fc.tuple(
  fc.constantFrom("write", "flip", "cut", "insert", "move", "end"),
  fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
  fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
  fc.integer({ min: 1, max: 64 }),
  fc.integer({ min: 0, max: 255 }),
);
type Edit = typeof edit extends fc.Arbitrary<infer T> ? T : never;
type Bytes = Buffer<ArrayBuffer>;

function edited(bytes: Bytes, [kind, at, from, length, value]: Edit): Bytes {
  // Half of the edits fall into the header, which is short.
  const header = Math.min(bytes.length, 8 + Number(bytes.readBigUInt64LE(0)));
  const position = Math.floor(at < 0.5 ? 2 * at * header : (2 * at - 1) * bytes.length);
  const result = Buffer.from(bytes);
  switch (kind) {
    case "write":
      return result.fill(value, position, Math.min(position + length, bytes.length));
    case "flip":
      result[position]! ^= value || 1;
      return result;
    case "cut":
      return Buffer.concat([result.subarray(0, position), result.subarray(position + length)]);
    case "insert":
      return Buffer.concat([
        result.subarray(0, position),
        Buffer.alloc(length, value),
        result.subarray(position),
      ]);
    case "move":
      bytes.copy(result, position, Math.floor(from * bytes.length), Math.floor(from * bytes.length) + length);
      return result;
    default:
      return result.subarray(0, position);
  }
}

/** Digits and names of the header changed as text, which keeps it readable. */
const headerEdits: readonly (readonly [RegExp, string])[] = [
  [/"shape":\[40,6\]/, '"shape":[240]'],
  [/"shape":\[40,6\]/, '"shape":[6,40]'],
  [/"shape":\[40,6\]/, '"shape":[4,60]'],
  [/"shape":\[6,1,32\]/, '"shape":[192]'],
  [/"shape":\[6,1,32\]/, '"shape":[6,32]'],
  [/"shape":\[6,1\]/, '"shape":[6]'],
  [/"shape":\[6\]/, '"shape":[6,1]'],
  [/"dtype":"I8"/, '"dtype":"U8"'],
  [/"dtype":"U8"/, '"dtype":"I8"'],
  [/"dtype":"F32"/, '"dtype":"I32"'],
  [/"a\.weight\.int8"/, '"x.weight.int8"'],
  [/int8 6 40/, "int8 40 6"],
  [/int8 6 40/, "int4 6 40"],
  [/int4 6 40/, "int4 6 39"],
  [/"held:a\.weight"/, '"held:norm.weight"'],
  [/"version":"2"/, '"version":"1"'],
  [/"version":"2"/, '"version":"2","more":"1"'],
];

describe("a copy with changed bytes", { timeout: 120_000 }, () => {
  /** Opens what `changed` has become; its tensors must be the sound ones, made again or not. */
  async function survives(file: TensorFile, changed: Buffer, sound: string, what: string): Promise<boolean> {
    await writeFile(folders.place, changed);
    const { made, remarks, copy } = await opened(file);
    expect(remarks, what).toHaveLength(made ? 1 : 0);
    expect(await digest(copy), what).toBe(sound);
    return made;
  }

  async function digest(copy: TensorFile): Promise<string> {
    const hash = createHash("sha256");
    for (const name of [...copy.tensors.keys()].sort()) {
      const { dtype, dims, data } = await copy.read(name);
      hash.update(JSON.stringify([name, dtype, dims])).update(bytesOf(data));
    }
    return hash.digest("hex");
  }

  it("is made again or has the same tensors: 400 edits, and each of the header's fields", async () => {
    const file = await source(folders.root);
    const { copy } = await opened(file);
    const bytes = Buffer.from(await readFile(folders.place));
    const sound = await digest(copy);
    let made = 0;
    const runs = 400;
    const samples = fc.sample(fc.array(edit, { minLength: 1, maxLength: 3 }), { numRuns: runs, seed: 11 });
    for (const [i, edits] of samples.entries()) {
      const changed = edits.reduce<Bytes>((all, one) => (all.length < 8 ? all : edited(all, one)), bytes);
      made += Number(await survives(file, changed, sound, `edits ${i}: ${JSON.stringify(edits)}`));
    }
    expect(made).toBeGreaterThan(0.9 * runs);
    const text = bytes.toString("latin1");
    for (const [pattern, replacement] of headerEdits) {
      const changed = Buffer.from(text.replace(pattern, replacement), "latin1");
      expect(changed.equals(bytes), String(pattern)).toBe(false);
      // The header keeps its length by the spaces behind it, where it can.
      const difference = changed.length - bytes.length;
      changed.writeBigUInt64LE(changed.readBigUInt64LE(0) + BigInt(difference), 0);
      expect(await survives(file, changed, sound, `${pattern} to ${replacement}`)).toBe(true);
    }
  });
});
