/** Safetensors files: written here with known numbers, with headers that lie, and changed in some bytes. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openSafetensors } from "../../src/checkpoints/safetensors.js";
import type { Random } from "../../src/random.js";
import { changed, notTheFile, randomBytes } from "./changes.js";
import type { Kind, Trial } from "./trial.js";

const widths = { F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, U8: 1, I8: 1 } as const;
type Entry = { dtype: unknown; shape: unknown; data_offsets: unknown };

interface Known {
  readonly header: Record<string, Entry>;
  readonly data: Buffer;
}

function known(random: Random): Known {
  const header: Record<string, Entry> = {};
  let end = 0;
  for (let i = random.between(1, 6); i > 0; i--) {
    const dtype = random.pick(Object.keys(widths) as (keyof typeof widths)[]);
    const shape = Array.from({ length: random.between(0, 4) }, () => random.between(1, 5));
    const length = widths[dtype] * shape.reduce((product, side) => product * side, 1);
    header[`layer.${i}.weight`] = { dtype, shape, data_offsets: [end, end + length] };
    end += length;
  }
  return { header, data: randomBytes(random, end) };
}

function fileOf(header: unknown, data: Buffer, claimed?: bigint): Buffer {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(claimed ?? BigInt(text.length));
  return Buffer.concat([length, text, data]);
}

type Lie = (known: Known, random: Random) => Buffer;
const firstOf = ({ header }: Known): Entry => Object.values(header)[0]!;
const changedFirst = (known: Known, change: Partial<Entry>): Buffer => {
  const [name] = Object.keys(known.header);
  return fileOf({ ...known.header, [name!]: { ...firstOf(known), ...change } }, known.data);
};
const longer = (known: Known): number[] => [...(firstOf(known).shape as number[]), 2];

/** Each makes a file that no reader may take. */
const lies: Readonly<Record<string, Lie>> = {
  "a shape that needs more": (file) => changedFirst(file, { shape: longer(file) }),
  "offsets beyond the end": (file) => changedFirst(file, { data_offsets: [0, file.data.length + 1] }),
  "offsets backwards": (file) => changedFirst(file, { data_offsets: [8, 0] }),
  "offsets below 0": (file) => changedFirst(file, { data_offsets: [-4, 0] }),
  "offsets in text": (file) => changedFirst(file, { data_offsets: ["0", "4"] }),
  "offsets of 2^60": (file) => changedFirst(file, { data_offsets: [2 ** 60, 2 ** 60 + 4] }),
  "a side below 0": (file) => changedFirst(file, { shape: [-1] }),
  "a side of 2^40": (file) => changedFirst(file, { shape: [2 ** 40, 2 ** 40] }),
  "a broken side": (file) => changedFirst(file, { shape: [1.5] }),
  "no such type": (file, random) => changedFirst(file, { dtype: random.pick(["F33", "__proto__", 4, null]) }),
  "a hole between tensors": ({ header, data }) =>
    fileOf(
      { ...header, hole: { dtype: "U8", shape: [1], data_offsets: [data.length + 8, data.length + 9] } },
      Buffer.concat([data, Buffer.alloc(9)]),
    ),
  "two tensors at one place": ({ header, data }) =>
    fileOf({ ...header, twin: Object.values(header)[0] }, data),
  "a header longer than the file": ({ header, data }) => fileOf(header, data, 2n ** 40n),
  "a header of 2^63 bytes": ({ header, data }) => fileOf(header, data, 2n ** 63n),
  "a header of no bytes": ({ data }) => fileOf("", data),
  "a header that is a list": ({ data }) => fileOf("[]", data),
  "a header that is no JSON": ({ data }) => fileOf("{'a': 1}", data),
  "a header of brackets": ({ data }) => fileOf("[".repeat(100_000), data),
  "metadata that is no text": ({ header, data }) => fileOf({ __metadata__: { a: 1 }, ...header }, data),
  "bytes behind the last tensor": ({ header, data }) =>
    fileOf(header, Buffer.concat([data, Buffer.alloc(7)])),
  "a cut file": ({ header, data }, random) =>
    fileOf(header, data.subarray(0, random.between(0, data.length - 1))),
};

export const safetensors: Kind = {
  name: "safetensors",
  title: "safetensors files",
  rule:
    "Written here with known numbers of seven types; then whole, with a header that lies in one of 21 ways (all have to be refused), or changed in some bytes. " +
    "Right: every tensor with its shape and bytes. Accepted: a changed file whose header still adds up.",
  count: 1500,
  quick: 100,
  limit: 20_000,
  async prepare(folder) {
    const path = join(folder, "model.safetensors");
    const readAll = async (file: Buffer): Promise<Map<string, [shape: string, bytes: Buffer]>> => {
      await writeFile(path, file);
      const opened = await openSafetensors(path);
      const found = new Map<string, [string, Buffer]>();
      for (const name of opened.tensors.keys()) {
        const { dims, data } = await opened.read(name);
        found.set(name, [dims.join(), Buffer.from(data.buffer, data.byteOffset, data.byteLength)]);
      }
      return found;
    };
    return (random, index): Trial => {
      const file = known(random);
      const { header, data } = file;
      const part = index % 10;
      if (part < 3) {
        const run = async (): Promise<string | undefined> => {
          const found = await readAll(fileOf({ __metadata__: { format: "pt" }, ...header }, data));
          if (found.size !== Object.keys(header).length) return `${found.size} tensors`;
          for (const [name, { shape, data_offsets: offsets }] of Object.entries(header)) {
            const [dims, bytes] = found.get(name) ?? [];
            const [from, to] = offsets as [number, number];
            if (dims !== (shape as number[]).join() || !bytes!.equals(data.subarray(from, to))) return name;
          }
          return undefined;
        };
        return { form: "whole", must: "read", run };
      }
      const readable = (form: string, must: Trial["must"], bytes: Buffer): Trial => ({
        form,
        must,
        run: async () => void (await readAll(bytes)),
      });
      if (part < 6) {
        const name = Object.keys(lies)[Math.floor(index / 10) % Object.keys(lies).length]!;
        return readable(name, "refuse", lies[name]!(file, random));
      }
      if (part === 6) {
        const [what, bytes] = random.pick(Object.entries(notTheFile));
        return readable(`no safetensors: ${what}`, "refuse", bytes);
      }
      const { what, bytes } = changed(fileOf(header, data), random);
      return readable(what, "either", bytes);
    };
  },
};
