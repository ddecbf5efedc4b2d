/** Builds files as an attacker would: pickles opcode by opcode, zip files field by field. */
import type { ByteSource } from "../../src/files/byte-source.js";
import { UserError } from "../../src/errors.js";

const text = new TextEncoder();

export const bytes = (...parts: readonly (string | number | Uint8Array)[]): Uint8Array =>
  Buffer.concat(
    parts.map((part) =>
      typeof part === "number" ? Uint8Array.of(part) : typeof part === "string" ? text.encode(part) : part,
    ),
  );

export function little(value: number | bigint, size: 1 | 2 | 4 | 8): Uint8Array {
  const result = new Uint8Array(size);
  let rest = BigInt.asUintN(64, BigInt(value));
  for (let i = 0; i < size; i++, rest >>= 8n) result[i] = Number(rest & 255n);
  return result;
}

/** A file in memory. Reading outside of it is what a real file would refuse. */
export function memory(content: Uint8Array, path = "x.pth"): ByteSource & { readonly most: number } {
  const state = { most: 0 };
  return {
    path,
    size: content.length,
    get most() {
      return state.most;
    },
    read: async (position, length) => {
      if (position < 0 || length < 0 || position + length > content.length)
        throw new UserError(`${path}: ends before byte ${position + length}`);
      state.most = Math.max(state.most, length);
      return Uint8Array.from(content.subarray(position, position + length));
    },
  };
}

export const unicode = (value: string): Uint8Array => bytes("X", little(text.encode(value).length, 4), value);
export const whole = (value: number | bigint): Uint8Array => bytes(0x8a, 8, little(value, 8));
export const global = (name: string): Uint8Array => {
  const at = name.lastIndexOf(".");
  return bytes("c", name.slice(0, at), "\n", name.slice(at + 1), "\n");
};

export interface TensorFields {
  readonly type: string;
  readonly key: string;
  readonly count: number | bigint;
  readonly offset: number | bigint;
  readonly dims: readonly (number | bigint)[];
  readonly strides: readonly (number | bigint)[];
}

export const goodTensor: TensorFields = {
  type: "torch.FloatStorage",
  key: "0",
  count: 6,
  offset: 0,
  dims: [2, 3],
  strides: [3, 1],
};

export function tensorPickle(fields: TensorFields): Uint8Array {
  const { type, key, count, offset, dims, strides } = fields;
  const tuple = (values: readonly (number | bigint)[]) => bytes("(", ...values.map(whole), "t");
  return bytes(
    global("torch._utils._rebuild_tensor_v2"),
    "((",
    unicode("storage"),
    global(type),
    unicode(key),
    unicode("cpu"),
    whole(count),
    "tQ",
    whole(offset),
    tuple(dims),
    tuple(strides),
    0x89,
    global("collections.OrderedDict"),
    ")R",
    "tR",
  );
}

/** {"model": OrderedDict(weight=TENSOR)}, and perhaps another entry before it. */
export const modelPickle = (tensor: Uint8Array, before: Uint8Array = bytes()): Uint8Array =>
  bytes(
    0x80,
    2,
    "}",
    "(",
    before,
    unicode("model"),
    global("collections.OrderedDict"),
    ")R(",
    unicode("weight"),
    tensor,
    "uu.",
  );

export interface ZipFields {
  readonly name: string;
  readonly data: Uint8Array;
  readonly method?: number;
  readonly flags?: number;
  readonly mode?: number;
  /** What the directory says where it lies. */
  readonly listed?: {
    readonly name?: string;
    readonly length?: number;
    readonly packed?: number;
    readonly offset?: number;
  };
}

export function zip(
  entries: readonly ZipFields[],
  end: {
    readonly count?: number;
    readonly length?: number;
    readonly offset?: number;
    readonly comment?: string;
  } = {},
): Uint8Array {
  const parts: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let position = 0;
  for (const { name, data, method = 0, flags = 0, mode = 0, listed = {} } of entries) {
    const local = bytes(
      "PK\u0003\u0004",

      little(0, 2),
      little(flags, 2),
      little(method, 2),
      little(0, 8),
      little(data.length, 4),
      little(data.length, 4),
      little(text.encode(name).length, 2),
      little(0, 2),
      name,
    );
    const shown = listed.name ?? name;
    directory.push(
      bytes(
        "PK\u0001\u0002",
        little(0x031e, 2),
        little(0, 2),
        little(flags, 2),
        little(method, 2),
        little(0, 8),
        little(listed.packed ?? listed.length ?? data.length, 4),
        little(listed.length ?? data.length, 4),
        little(text.encode(shown).length, 2),
        little(0, 2),
        little(0, 2),
        little(0, 2),
        little(0, 2),
        little(mode * 65536, 4),
        little(listed.offset ?? position, 4),
        shown,
      ),
    );
    parts.push(local, data);
    position += local.length + data.length;
  }
  const listing = Buffer.concat(directory);
  const comment = end.comment ?? "";
  return bytes(
    ...parts,
    listing,
    "PK\u0005\u0006",
    little(0, 4),
    little(end.count ?? entries.length, 2),
    little(end.count ?? entries.length, 2),
    little(end.length ?? listing.length, 4),
    little(end.offset ?? position, 4),
    little(comment.length, 2),
    comment,
  );
}

export const numbers = (count: number): Uint8Array =>
  new Uint8Array(Float32Array.from({ length: count }, (_, i) => i).buffer);

/** A whole file of torch in the zip form around a pickle. */
export const torchZip = (pickle: Uint8Array, data = numbers(6)): Uint8Array =>
  zip([
    { name: "archive/data.pkl", data: pickle },
    { name: "archive/data/0", data },
    { name: "archive/version", data: bytes("3\n") },
  ]);

/** The same in the old form. */
export const torchStream = (pickle: Uint8Array, count: number | bigint = 6, data = numbers(6)): Uint8Array =>
  bytes(
    0x80,
    2,
    0x8a,
    10,
    Uint8Array.of(0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19),
    ".",
    0x80,
    2,
    "M",
    little(1001, 2),
    ".",
    0x80,
    2,
    "}",
    unicode("little_endian"),
    0x88,
    "s.",
    pickle,
    0x80,
    2,
    "](",
    unicode("0"),
    "e.",
    little(count, 8),
    data,
  );
