import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openSafetensors, writeSafetensors } from "../../src/checkpoints/safetensors.js";
import { parseHeader } from "../../src/checkpoints/safetensors-header.js";
import { UserError } from "../../src/errors.js";
import {
  bytesPerElement,
  elementCount,
  type DType,
  type HostTensor,
  type TypedArray,
} from "../../src/host-tensor.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "blip2-safetensors-"));
});
afterAll(() => rm(folder, { recursive: true }));

const arrays: Record<DType, new (buffer: ArrayBuffer) => TypedArray> = {
  float32: Float32Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  int32: Int32Array,
  uint8: Uint8Array,
  int8: Int8Array,
  bool: Uint8Array,
};

function tensorOf(dtype: DType, dims: number[], seed = 1): HostTensor {
  const bytes = new Uint8Array(elementCount(dims) * bytesPerElement[dtype]);
  bytes.forEach((_, i) => (bytes[i] = (i * 37 + seed * 101) & 255));
  return { dtype, dims, data: new arrays[dtype](bytes.buffer) };
}

const bytesOf = ({ data }: HostTensor) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

/** A file with this header text (or object) and so many data bytes. */
async function fileWith(
  header: object | string,
  dataLength: number,
  name = "x.safetensors",
): Promise<string> {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const path = join(folder, name);
  await writeFile(path, Buffer.concat([length, json, Buffer.alloc(dataLength)]));
  return path;
}

const refusal = async (path: string): Promise<string> => {
  const error = await openSafetensors(path).then(
    () => new Error("was accepted"),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  // Later versions of Node say the line and the column of a fault in JSON too.
  return (error as Error).message.replaceAll(folder, "DIR").replace(/ \(line \d+ column \d+\)/, "");
};

describe("element types that no tensor holds", () => {
  it("are read as PyTorch files are: float64 rounded to float32, int16 widened to int32", async () => {
    const header = {
      wide: { dtype: "F64", shape: [2], data_offsets: [0, 16] },
      short: { dtype: "I16", shape: [3], data_offsets: [16, 22] },
    };
    const path = await fileWith(header, 22, "wide.safetensors");
    const content = await readFile(path);
    const start = content.length - 22;
    content.writeDoubleLE(0.1, start);
    content.writeDoubleLE(-1e300, start + 8);
    for (const [i, value] of [-32768, 7, 32767].entries()) content.writeInt16LE(value, start + 16 + 2 * i);
    await writeFile(path, content);
    const file = await openSafetensors(path);
    expect([...file.tensors.values()].map(({ dtype, computed }) => [dtype, computed])).toEqual([
      ["float32", true],
      ["int32", true],
    ]);
    const { data: wide } = await file.read("wide");
    expect(wide).toEqual(Float32Array.of(0.1, -Infinity));
    expect((await file.readAll()).get("short")!.data).toEqual(Int32Array.of(-32768, 7, 32767));
  });
});

describe("round trip", () => {
  it("keeps every dtype, scalars, and empty tensors, bit for bit", async () => {
    const path = join(folder, "all.safetensors");
    const tensors = Object.fromEntries(
      (Object.keys(arrays) as DType[]).map((dtype, i) => [`layer.${i}.${dtype}`, tensorOf(dtype, [2, 3], i)]),
    );
    tensors["scalar"] = tensorOf("float32", []);
    tensors["empty"] = tensorOf("int8", [0, 7]);
    await writeSafetensors(path, tensors, { format: "pt", note: "\u00e4" });
    const opened = await openSafetensors(path);
    expect(opened.metadata).toEqual({ format: "pt", note: "\u00e4" });
    expect([...opened.tensors.keys()].sort()).toEqual(Object.keys(tensors).sort());
    const file = await readFile(path);
    for (const [name, tensor] of Object.entries(tensors)) {
      const { offset, length, file: where } = opened.tensors.get(name)!;
      expect(where).toBe(path);
      expect(offset % bytesPerElement[tensor.dtype]).toBe(0);
      expect(file.subarray(offset, offset + length).equals(bytesOf(tensor))).toBe(true);
      expect(await opened.read(name)).toEqual(tensor);
    }
    expect(new Map(Object.entries(tensors))).toEqual(await opened.readAll());
    expect([...(await opened.readAll(["scalar"])).keys()]).toEqual(["scalar"]);
  });

  it("writes the same bytes whatever the order given, with aligned data", async () => {
    const [a, b] = [tensorOf("float32", [3]), tensorOf("float16", [3])];
    await writeSafetensors(join(folder, "1.safetensors"), { b, "10": a, a, "9": a });
    await writeSafetensors(
      join(folder, "2.safetensors"),
      new Map(Object.entries({ a, "9": a, "10": a, b }).reverse()),
    );
    const bytes = await readFile(join(folder, "1.safetensors"));
    expect(bytes.equals(await readFile(join(folder, "2.safetensors")))).toBe(true);
    expect(Number(bytes.readBigUInt64LE()) % 8).toBe(0);
    const opened = await openSafetensors(join(folder, "1.safetensors"));
    expect([...opened.tensors].sort(([, x], [, y]) => x.offset - y.offset).map(([name]) => name)).toEqual([
      "10",
      "9",
      "a",
      "b",
    ]);
  });

  it("holds for random tensors and names", async () => {
    const tensor = fc
      .record({
        dtype: fc.constantFrom(...(Object.keys(arrays) as DType[])),
        dims: fc.array(fc.nat(4), { maxLength: 4 }),
        seed: fc.nat(250),
      })
      .map(({ dtype, dims, seed }) => tensorOf(dtype, dims, seed));
    const name = fc.string({ unit: "grapheme" }).filter((text) => text !== "__metadata__");
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.tuple(name, tensor), { selector: ([key]) => key }),
        async (entries) => {
          const path = join(folder, "random.safetensors");
          await writeSafetensors(path, new Map(entries));
          expect(await (await openSafetensors(path)).readAll()).toEqual(new Map(entries));
        },
      ),
      { numRuns: 100 },
    );
  });

  it("reads what Python's safetensors wrote", async () => {
    // save_file({"w": [[1, 2], [3, 4]] float32, "h": [0.5, -2] float16, "ids": [7] int64, "m": [true]}, ..., {"format": "pt"})
    const opened = await openSafetensors("test/checkpoints/golden/python.safetensors");
    expect(opened.metadata).toEqual({ format: "pt" });
    expect(await opened.read("w")).toEqual({
      dtype: "float32",
      dims: [2, 2],
      data: Float32Array.of(1, 2, 3, 4),
    });
    expect(await opened.read("h")).toEqual({
      dtype: "float16",
      dims: [2],
      data: Uint16Array.of(0x3800, 0xc000),
    });
    expect(await opened.read("ids")).toEqual({ dtype: "int64", dims: [1], data: BigInt64Array.of(7n) });
    expect(await opened.read("m")).toEqual({ dtype: "bool", dims: [1], data: Uint8Array.of(1) });
  });
});

describe("hostile and broken files", () => {
  const f32 = (begin: number, end: number, shape = [(end - begin) / 4]) => ({
    dtype: "F32",
    shape,
    data_offsets: [begin, end],
  });

  const cases: [string, object | string, number][] = [
    ["an overlap", { a: f32(0, 8), b: f32(4, 12) }, 12],
    ["a shared range", { a: f32(0, 8), b: f32(0, 8) }, 8],
    ["a gap", { a: f32(0, 8), b: f32(12, 16) }, 16],
    ["a gap in front", { a: f32(4, 8) }, 8],
    ["bytes after the end", { a: f32(0, 8) }, 9],
    ["missing data", { a: f32(0, 8) }, 7],
    ["offsets that do not fit the shape", { a: f32(0, 8, [3]) }, 8],
    ["reversed offsets", { a: f32(8, 0, [2]) }, 8],
    ["negative offsets", { a: f32(-8, 0) }, 8],
    ["fractions", { a: f32(0, 8, [1.5]) }, 8],
    ["a negative size", { a: f32(0, 8, [-2, -1]) }, 8],
    ["a huge shape", { a: f32(0, 8, [2 ** 40, 2 ** 40]) }, 8],
    ["huge offsets", '{"a":{"dtype":"F32","shape":[0],"data_offsets":[1e300,1e300]}}', 8],
    ["an unknown dtype", { a: { dtype: "F6_E2M3", shape: [1], data_offsets: [0, 8] } }, 8],
    ["an inherited dtype", { a: { dtype: "constructor", shape: [1], data_offsets: [0, 8] } }, 8],
    ["no fields", { a: 3 }, 0],
    ["no shape", { a: { dtype: "F32", data_offsets: [0, 4] } }, 4],
    ["one offset", { a: { dtype: "F32", shape: [1], data_offsets: [4] } }, 4],
    ["metadata that is no text", { __metadata__: { a: 1 } }, 0],
    ["metadata that is a list", { __metadata__: ["a"] }, 0],
    [
      "a duplicate tensor",
      '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061" :{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
      0,
    ],
    ["a duplicate field", '{"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}', 0],
    ["no JSON", "{no}", 0],
    ["a list", "[1]", 0],
    ["white space in front", " {}", 0],
    ["a long name", { ["n".repeat(5000)]: 3 }, 0],
  ];

  it.each(cases)("refuses %s", async (_, header, dataLength) => {
    expect(await refusal(await fileWith(header, dataLength))).toMatchSnapshot();
  });

  it("refuses header lengths that cannot be", async () => {
    const path = join(folder, "short.safetensors");
    for (const bytes of [
      [],
      [1, 2, 3],
      [255, 255, 255, 255, 255, 255, 255, 255],
      [9, 0, 0, 0, 0, 0, 0, 0, 0x7b],
      [0, 0, 0, 0, 0, 0, 0, 0],
    ]) {
      await writeFile(path, Uint8Array.from(bytes));
      expect(await refusal(path)).toMatchSnapshot();
    }
  });

  it("says what is there instead of a file", async () => {
    expect(await refusal(join(folder, "none.safetensors"))).toBe(
      "DIR/none.safetensors: this file does not exist",
    );
    expect(await refusal(folder)).toBe("DIR: a file is required, this is a folder");
  });

  it("notices a file that shrank after it was opened", async () => {
    const path = await fileWith({ a: f32(0, 8) }, 8, "shrinks.safetensors");
    const opened = await openSafetensors(path);
    await writeFile(path, (await readFile(path)).subarray(0, -1));
    await expect(opened.read("a")).rejects.toThrow("it changed or is truncated");
    await expect(opened.read("b")).rejects.toThrow(`${path}: has no tensor "b"`);
  });

  it("accepts an empty file, a padded header, and a name like __proto__", async () => {
    expect((await openSafetensors(await fileWith("{}   ", 0))).tensors.size).toBe(0);
    const odd = '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}';
    expect((await openSafetensors(await fileWith(odd, 1))).tensors.get("__proto__")!.length).toBe(1);
  });

  it("survives any header: a UserError or ranges inside the file, each byte once", () => {
    const number = fc.oneof(fc.integer({ min: -2, max: 20 }), fc.constantFrom(2 ** 31, 2 ** 53, 1e308, 0.5));
    const entry = fc.record(
      {
        dtype: fc.constantFrom("F32", "F16", "U8", "I64", "BOOL", "X", "toString"),
        shape: fc.oneof(fc.array(number, { maxLength: 3 }), fc.anything()),
        data_offsets: fc.oneof(fc.array(number, { maxLength: 3 }), fc.anything()),
      },
      { requiredKeys: [] },
    );
    const header = fc.dictionary(fc.string(), fc.oneof(entry, fc.jsonValue()));
    fc.assert(
      fc.property(
        header,
        fc.nat(40),
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 2 }),
        (json, size, flips) => {
          let text = "{}";
          try {
            text = JSON.stringify(json, (_, value: unknown) => (typeof value === "bigint" ? null : value));
          } catch {
            // fast-check can make values that refer to themselves
          }
          const bytes = Uint8Array.from(Buffer.from(text));
          for (const [at, value] of flips) bytes[at % bytes.length] = value;
          const fileLength = 8 + bytes.length + size;
          try {
            const { tensors } = parseHeader("f", bytes, fileLength);
            const covered = [...tensors.values()].reduce((sum, { length }) => sum + length, 0);
            expect(covered).toBe(size);
            for (const { offset, length } of tensors.values()) {
              expect(offset).toBeGreaterThanOrEqual(8 + bytes.length);
              expect(offset + length).toBeLessThanOrEqual(fileLength);
            }
          } catch (error) {
            expect(error).toBeInstanceOf(UserError);
          }
        },
      ),
      { numRuns: 800 },
    );
  });
});

describe("sharded checkpoints", () => {
  const index = (weightMap: object) => JSON.stringify({ metadata: {}, weight_map: weightMap });
  const path = () => join(folder, "model.safetensors.index.json");

  beforeAll(async () => {
    await writeSafetensors(join(folder, "s1.safetensors"), {
      a: tensorOf("float32", [2]),
      b: tensorOf("float16", [2]),
    });
    await writeSafetensors(join(folder, "s2.safetensors"), { c: tensorOf("int64", [1]) });
  });

  it("reads tensors from their shards", async () => {
    await writeFile(path(), index({ a: "s1.safetensors", c: "s2.safetensors", b: "s1.safetensors" }));
    const opened = await openSafetensors(path());
    expect([...opened.tensors.keys()].sort()).toEqual(["a", "b", "c"]);
    expect(opened.tensors.get("c")!.file).toBe(join(folder, "s2.safetensors"));
    expect(await opened.read("c")).toEqual(tensorOf("int64", [1]));
    expect((await opened.readAll()).size).toBe(3);
  });

  it.each([
    ["a tensor that is nowhere", { a: "s1.safetensors", b: "s1.safetensors", d: "s1.safetensors" }],
    ["a tensor that is elsewhere", { a: "s1.safetensors", b: "s2.safetensors", c: "s2.safetensors" }],
    ["a tensor that is not listed", { a: "s1.safetensors" }],
    ["a missing shard", { a: "s3.safetensors" }],
    ["a shard in another folder", { a: "../s1.safetensors" }],
    ["an absolute shard", { a: "/etc/passwd" }],
    ["a shard that is no name", { a: 3 }],
    ["a list", [1]],
  ])("refuses %s", async (_, weightMap) => {
    await writeFile(path(), index(weightMap));
    expect(await refusal(path())).toMatchSnapshot();
  });

  it("refuses an index that is not JSON or has no map", async () => {
    await writeFile(path(), "{");
    expect(await refusal(path())).toMatch(/^DIR\/model.safetensors.index.json: not JSON \(/);
    await writeFile(path(), "{}");
    expect(await refusal(path())).toMatchSnapshot();
  });
});
