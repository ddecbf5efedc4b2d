/**
 * Files from strangers. Each generated file is bad by construction, or a mutation of a good one; a bad one must be refused
 * with a `UserError`, quickly, having read little and executed nothing.
 */
import fc from "fast-check";
import { mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parsePyTorch } from "../../src/checkpoints/pytorch.js";
import { openSafetensors } from "../../src/checkpoints/safetensors.js";
import { parseHeader, parseHeaderLength } from "../../src/checkpoints/safetensors-header.js";
import { UserError } from "../../src/errors.js";
import {
  bytes,
  global,
  goodTensor,
  little,
  memory,
  modelPickle,
  numbers,
  tensorPickle,
  torchStream,
  torchZip,
  unicode,
  whole,
  zip,
  type TensorFields,
  type ZipFields,
} from "./hostile.js";

const seed = 20230130;
/** Milliseconds of computing, far above what a refusal takes; the clock would measure what else the machine does. */
const slowest = 2000;

interface Tally {
  refused: number;
  accepted: number;
}

/** Runs `read`; a `UserError` counts as refused, success as accepted, all else fails the test. */
async function attempt(tally: Tally, what: string, read: () => unknown): Promise<void> {
  const start = process.cpuUsage();
  try {
    await read();
    tally.accepted++;
  } catch (error) {
    if (!(error instanceof UserError)) throw new Error(`${what}: ${String(error)}`, { cause: error });
    expect(error.message.length, what).toBeLessThan(3000);
    tally.refused++;
  }
  const { user, system } = process.cpuUsage(start);
  expect((user + system) / 1000, `${what}: milliseconds`).toBeLessThan(slowest);
}

/** Refused, every one of them. */
async function allRefused(files: Iterable<readonly [what: string, content: Uint8Array]>): Promise<number> {
  const tally: Tally = { refused: 0, accepted: 0 };
  for (const [what, content] of files) {
    await attempt(tally, what, () => parsePyTorch(memory(content)));
    expect(tally.accepted, `${what} was accepted`).toBe(0);
  }
  return tally.refused;
}

const sampled = <T>(arbitrary: fc.Arbitrary<T>, count: number, offset = 0): T[] =>
  fc.sample(arbitrary, { numRuns: count, seed: seed + offset });

/** Changes, inserts or deletes a few bytes. */
function mutated(content: Uint8Array, edits: readonly (readonly [number, number, number])[]): Uint8Array {
  let result = Uint8Array.from(content);
  for (const [kind, place, value] of edits) {
    const at = Math.floor(place * result.length);
    if (kind === 0) result[at] = result[at]! ^ (value | 1);
    else if (kind === 1) result = Uint8Array.from(bytes(result.subarray(0, at), value, result.subarray(at)));
    else result = Uint8Array.from(bytes(result.subarray(0, at), result.subarray(at + 1)));
  }
  return result;
}

const edits = fc.array(
  fc.tuple(
    fc.integer({ min: 0, max: 2 }),
    fc.double({ min: 0, max: 0.999, noNaN: true }),
    fc.integer({ min: 0, max: 255 }),
  ),
  { minLength: 1, maxLength: 4 },
);

it("takes the good files that the bad ones are made of", async () => {
  const pickle = modelPickle(tensorPickle(goodTensor));
  for (const content of [torchZip(pickle), torchStream(pickle)]) {
    const { tensors } = await parsePyTorch(memory(content));
    expect([...tensors.keys()]).toEqual(["weight"]);
  }
});

// The limits are for a machine that does much else; all of it computes for a few seconds.
describe("pickles", { timeout: 300_000 }, () => {
  const dangerous = [
    "os.system",
    "posix.system",
    "nt.system",
    "subprocess.Popen",
    "subprocess.check_output",
    "os.execv",
    "os.popen",

    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.__import__",
    "builtins.getattr",
    "builtins.open",

    "__builtin__.eval",
    "__builtin__.apply",
    "__builtin__.file",
    "importlib.import_module",
    "runpy.run_path",

    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch._C._jit_compile",
    "torch.utils.cpp_extension.load",

    "torch.storage._load_from_bytes",
    "torch._utils._rebuild_tensor_v2.__globals__",
    "torch.serialization.load",

    "collections.OrderedDict.__reduce__",
    "functools.partial",
    "operator.attrgetter",
    "webbrowser.open",
    "pickle.loads",

    "socket.create_connection",
    "shutil.rmtree",
    "pty.spawn",
    "code.interact",
    "omegaconf_evil.run",
    "__main__.Model",

    "numpy.load",
    "numpy.testing._private.utils.runstring",
    "ctypes.CDLL",
    "sys.modules",
    "typing.get_type_hints",

    "torch.nn.Module",
    "torch.FloatTensor",
    "torch.ComplexFloatStorage",
    "toString.constructor",
    "__proto__.x",
  ];
  const marker = join(tmpdir(), `blip2-pickle-was-run-${process.pid}`);
  const command = unicode(`touch ${marker}`);
  const tensor = tensorPickle(goodTensor);
  /** The ways in which a pickle calls something. */
  const calls: readonly ((name: string) => Uint8Array)[] = [
    (name) => bytes(global(name), command, 0x85, "R"),
    (name) => bytes(global(name), "(", command, "tR"),
    (name) =>
      bytes(
        unicode(name.slice(0, name.lastIndexOf("."))),
        unicode(name.slice(name.lastIndexOf(".") + 1)),
        0x93,
        command,
        0x85,
        "R",
      ),
    (name) => bytes(global(name), command, 0x85, 0x81),
    (name) => bytes(global(name), command, 0x85, "}", 0x92),
    (name) => bytes(global(name), ")R}b"),
    (name) => bytes(global("collections.OrderedDict"), global(name), command, 0x85, "R", 0x85, "R"),
    (name) =>
      bytes(
        global("torch._utils._rebuild_parameter"),
        global(name),
        command,
        0x85,
        "R",
        0x89,
        "}",
        0x87,
        "R",
      ),
    (name) =>
      bytes(
        "(",
        command,
        "i",
        name.slice(0, name.lastIndexOf(".")),
        "\n",
        name.slice(name.lastIndexOf(".") + 1),
        "\n",
      ),
    (name) => bytes("(", global(name), command, "o"),
    (name) =>
      bytes(
        global("omegaconf.dictconfig.DictConfig"),
        ")",
        0x81,
        "}",
        unicode("a"),
        global(name),
        command,
        0x85,
        "Rsb",
      ),
    (name) => bytes("(", unicode("storage"), global(name), unicode("0"), unicode("cpu"), whole(6), "tQ"),
    (name) => bytes(global(name)),
  ];

  /** At the top, beside the model, as a tensor, as a key, within the tensor's arguments, in both forms. */
  function* attacks(): Generator<readonly [string, Uint8Array]> {
    for (const name of dangerous) {
      for (const [i, call] of calls.entries()) {
        const payload = call(name);
        const pickles = [
          bytes(0x80, 2, payload, "."),
          bytes(0x80, 4, 0x95, little(payload.length, 8), payload, "."),
          modelPickle(tensor, bytes(unicode("config"), payload)),
          modelPickle(payload),
          modelPickle(tensor, bytes(payload, unicode("value"))),
        ];
        for (const [j, pickle] of pickles.entries()) {
          yield [`${name}, call ${i}, place ${j}, zip`, torchZip(pickle)];
          yield [`${name}, call ${i}, place ${j}, stream`, torchStream(pickle)];
        }
      }
    }
  }
  const attackCount = dangerous.length * calls.length * 5 * 2;

  it(`refuses ${attackCount} that call or name what is not allowed, and runs none`, async () => {
    expect(await allRefused(attacks())).toBe(attackCount);
    await expect(readFile(marker)).rejects.toThrow(/ENOENT/);
  });

  it("names what it refuses, and the byte", async () => {
    const pickle = modelPickle(tensor, bytes(unicode("config"), global("os.system"), command, 0x85, "R"));
    await expect(parsePyTorch(memory(torchZip(pickle)))).rejects.toThrow(
      /^x\.pth: byte 15 of the pickle: it names "os\.system", which is not allowed;.* nothing was executed/,
    );
    const extended = bytes(0x80, 2, 0x82, 1, ".");
    await expect(parsePyTorch(memory(torchZip(extended)))).rejects.toThrow(
      /byte 2 of the pickle: the opcode EXT1 \(0x82\) is not allowed/,
    );
  });

  it("refuses 2,304 in which one opcode of 256 stands where it cannot", async () => {
    const prefixes = [
      bytes(),
      bytes("N"),
      bytes("("),
      bytes("NN"),
      bytes("}"),
      bytes("]"),
      bytes("(NN"),
      bytes("NNN"),
      bytes(")"),
    ];
    function* files(): Generator<readonly [string, Uint8Array]> {
      for (const [i, prefix] of prefixes.entries())
        for (let opcode = 0; opcode < 256; opcode++)
          yield [`opcode ${opcode} after ${i}`, torchZip(bytes(0x80, 2, prefix, opcode, "."))];
    }
    expect(await allRefused(files())).toBe(2304);
  });

  it("refuses 1,000 with tensors that leave their storage, or are too large", async () => {
    const huge = fc.constantFrom(2 ** 31, 2 ** 32, 2 ** 52, 2n ** 62n, -1, -(2 ** 31));
    const fields: fc.Arbitrary<Partial<TensorFields>> = fc.oneof(
      fc.record({ offset: fc.oneof(fc.integer({ min: 1, max: 1000 }), huge) }),
      fc.record({ count: fc.oneof(fc.integer({ min: 7, max: 1000 }), fc.integer({ min: 0, max: 5 }), huge) }),
      fc.record({ dims: fc.tuple(fc.oneof(fc.integer({ min: 3, max: 99 }), huge), fc.constant(3)) }),
      fc.record({ strides: fc.tuple(fc.oneof(fc.integer({ min: 4, max: 99 }), huge), fc.constant(1)) }),
      fc.record({ dims: fc.constantFrom([6], [1, 2, 3], Array<number>(65).fill(1)) }),
      fc.record({ dims: fc.tuple(fc.integer({ min: 7, max: 2 ** 40 })), strides: fc.constant([0]) }),
      fc.record({
        type: fc.constantFrom("torch.DoubleStorage", "torch.HalfStorage", "torch.QInt8Storage", "torch.Size"),
      }),
      fc.record({ key: fc.constantFrom("1", "../0", "", "0/../0", "\u0000", "x".repeat(100)) }),
    );
    const samples = sampled(fields, 1000);
    expect(
      await allRefused(
        samples.map((change, i) => [
          `tensor ${JSON.stringify(change, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value))} ${i}`,
          torchZip(modelPickle(tensorPickle({ ...goodTensor, ...change }))),
        ]),
      ),
    ).toBe(1000);
  });

  it("refuses 10 bombs of lists, dictionaries, memos, integers and texts with little memory", async () => {
    const many = (part: Uint8Array, count: number) =>
      Buffer.concat(Array.from({ length: count }, () => part));
    const bombs: readonly (readonly [string, Uint8Array])[] = [
      ["1.2 million lists", torchZip(bytes(0x80, 2, many(bytes("]"), 1_200_000), "."))],
      ["nested tuples", torchZip(bytes(0x80, 2, ")", many(bytes(0x85), 1_200_000), "."))],
      ["a long integer", torchZip(bytes(0x80, 2, 0x8b, little(2 ** 31 - 1, 4), 0, "."))],
      ["a text of 4 GiB", torchStream(bytes(0x80, 2, "X", little(2 ** 32 - 1, 4)))],
      ["bytes of 2^60", torchStream(bytes(0x80, 2, 0x8e, little(2n ** 60n, 8)))],
      ["a frame of 2^62", torchStream(bytes(0x80, 4, 0x95, little(2n ** 62n, 8)))],
      ["a memo far away", torchZip(bytes(0x80, 2, "j", little(2 ** 32 - 1, 4), "."))],
      ["a name without end", torchZip(bytes(0x80, 2, "c", many(bytes("a"), 100_000), "."))],
      [
        "doubling lists",
        torchZip(bytes(0x80, 2, "]q", 0, many(bytes("]h", 0, "ah", 0, "aq", 0), 5000), ".")),
      ],
      [
        "a key of nested lists",
        torchZip(modelPickle(tensor, bytes(many(bytes("]"), 9), many(bytes("a"), 8), "N"))),
      ],
    ];
    const before = process.memoryUsage().rss;
    expect(await allRefused(bombs)).toBe(bombs.length);
    expect(process.memoryUsage().rss - before).toBeLessThan(5e8);
  });

  it("refuses at least 2,000 mutations, and stays within bounds in the others", async () => {
    const pickle = modelPickle(tensorPickle(goodTensor), bytes(unicode("epoch"), "K", 3));
    const tally: Tally = { refused: 0, accepted: 0 };
    for (const [i, edit] of sampled(edits, 3000, 1).entries()) {
      const good = i % 2 === 0 ? torchZip(pickle) : torchStream(pickle);
      const content = mutated(i % 3 === 0 ? torchZip(mutated(pickle, edit)) : good, edit);
      await attempt(tally, `mutation ${i}`, async () => {
        const { tensors } = await parsePyTorch(memory(content));
        for (const { tensor, storagePosition } of tensors.values()) {
          const last = storagePosition + tensor.end * tensor.storage.type.bytes;
          expect(last).toBeLessThanOrEqual(content.length);
        }
      });
    }
    expect(tally.refused).toBeGreaterThan(2000);
  });

  it("refuses 600 that are cut off", async () => {
    const pickle = modelPickle(tensorPickle(goodTensor));
    const [inZip, inStream] = [torchZip(pickle), torchStream(pickle)];
    const cuts = (content: Uint8Array) =>
      Array.from({ length: 300 }, (_, i) => content.subarray(0, Math.floor((i * content.length) / 300)));
    const files = [...cuts(inZip), ...cuts(inStream)].map((content, i) => [`cut ${i}`, content] as const);
    expect(await allRefused(files)).toBe(600);
  });
});

describe("zip files", { timeout: 300_000 }, () => {
  const pickle = modelPickle(tensorPickle(goodTensor));
  const good: readonly ZipFields[] = [
    { name: "archive/data.pkl", data: pickle },
    { name: "archive/data/0", data: numbers(6) },
  ];
  const size = torchZip(pickle).length;

  it("refuses 1,500 with wrong entries: compressed, overlapping, twice, links, names that leave", async () => {
    const entry: fc.Arbitrary<Partial<ZipFields>> = fc.oneof(
      fc.record({
        method: fc.constantFrom(1, 6, 9, 12, 14, 93, 95, 98, 99),
        listed: fc.record({ length: fc.constantFrom(2 ** 30, 0xfffffffe) }),
      }),
      fc.record({ method: fc.integer({ min: 1, max: 65535 }).filter((method) => method !== 8) }),
      fc.record({ flags: fc.constantFrom(1, 9, 0x41) }),
      fc.record({ mode: fc.constantFrom(0o120777, 0o120644) }),
      fc.record({
        name: fc.constantFrom(
          "../x",
          "/etc/passwd",
          "archive/../../x",
          "a\\b",
          "C:x",
          "archive//x",
          "./x",
          "x/",
          "",
          "archive/data.pkl",
          "archive/data/0",
          "other/data.pkl",
          "a\u0000b",
        ),
      }),
      fc.record({ listed: fc.record({ offset: fc.integer({ min: 0, max: size }) }) }),
      fc.record({ listed: fc.record({ length: fc.integer({ min: 400, max: 0xffffffff }) }) }),
      fc.record({
        listed: fc.record({ packed: fc.integer({ min: 0, max: 0xffffffff }), length: fc.constant(5) }),
      }),
      fc.record({ listed: fc.record({ name: fc.constantFrom("archive/y", "archive/longer") }) }),
    );
    const files = sampled(entry, 1500, 2).map((change, i) => {
      const bad = { name: "archive/x", data: bytes("01234"), ...change };
      // An offset by chance right, or sizes by chance the same, would be no attack.
      const isHarmless = bad.listed?.packed === 5;
      const entries = i % 2 === 0 ? [...good, bad] : [bad, ...good];
      const ownOffset = i % 2 === 0 ? Buffer.from(zip(good)).indexOf("PK\u0001\u0002") : 0;
      const content = isHarmless || bad.listed?.offset === ownOffset ? bytes("PK") : zip(entries);
      return [`entry ${JSON.stringify(change)}`, content] as const;
    });
    expect(await allRefused(files)).toBe(1500);
  });

  it("refuses 500 with a wrong end", async () => {
    const end = fc.oneof(
      fc.record({ count: fc.integer({ min: 3, max: 65535 }) }),
      fc.record({ count: fc.integer({ min: 0, max: 1 }) }),
      fc.record({ length: fc.integer({ min: 0, max: 0xffffffff }) }),
      fc.record({ offset: fc.integer({ min: 0, max: 0xffffffff }) }),
    );
    const files = sampled(end, 500, 3).map(
      (change) => [`end ${JSON.stringify(change)}`, zip(good, change)] as const,
    );
    expect(await allRefused(files)).toBe(500);
  });
});

describe("safetensors", { timeout: 300_000 }, () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "blip2-fuzz-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  const withHeader = (json: string | Uint8Array, data = 24): Uint8Array => {
    const header = bytes(json);
    return bytes(little(header.length, 8), header, new Uint8Array(data));
  };
  /** What `openSafetensors` does with a file, on bytes. */
  const parse = (content: Uint8Array): void => {
    const length = parseHeaderLength("x.safetensors", content.subarray(0, 8), content.length);
    parseHeader("x.safetensors", Uint8Array.from(content.subarray(8, 8 + length)), content.length);
  };
  const refusedHeaders = async (files: readonly (readonly [string, Uint8Array])[]): Promise<number> => {
    const tally: Tally = { refused: 0, accepted: 0 };
    for (const [what, content] of files) {
      await attempt(tally, what, () => parse(content));
      expect(tally.accepted, `${what} was accepted`).toBe(0);
    }
    return tally.refused;
  };
  const good = {
    a: { dtype: "F32", shape: [2, 2], data_offsets: [0, 16] },
    b: { dtype: "F16", shape: [4], data_offsets: [16, 24] },
  };

  it("refuses 2,000 headers with ranges that overlap, leave holes or leave the file, and other lies", async () => {
    const wrong = fc.oneof(
      fc.record({
        data_offsets: fc.tuple(fc.integer({ min: 1, max: 2 ** 31 }), fc.integer({ min: 0, max: 2 ** 40 })),
      }),
      fc.record({
        data_offsets: fc.constantFrom<unknown>(
          [0],
          [],
          "0",
          [16, 0],
          [-16, 0],
          [0.5, 16.5],
          [0, 16, 16],
          null,
          [0, 1e300],
        ),
      }),
      fc.record({
        shape: fc.array(fc.integer({ min: 3, max: 2 ** 53 - 1 }), { minLength: 1, maxLength: 9 }),
      }),
      fc.record({
        shape: fc.constantFrom<unknown>([-2, -2], ["2", 2], [2.5], null, "x", [[2, 2]], [null], { 0: 4 }),
      }),
      fc.record({
        dtype: fc.constantFrom<unknown>("F4", "f32", "", null, 3, "constructor", "__proto__", "F8_E4M3", [
          "F32",
        ]),
      }),
    );
    const files = sampled(wrong, 2000, 4).map((change) => {
      const header = { ...good, a: { ...good.a, ...change } };
      return [`header ${JSON.stringify(change)}`, withHeader(JSON.stringify(header))] as const;
    });
    expect(await refusedHeaders(files)).toBe(2000);
  });

  it("refuses 11 bombs: deep nesting, announced lengths, many keys, long names", async () => {
    const deep = 200_000;
    const nested = `${"[".repeat(deep)}${"]".repeat(deep)}`;
    const entry = (fields: string) => withHeader(`{"a":{${fields}}}`);
    const files: (readonly [string, Uint8Array])[] = [
      ["a shape of nested lists", entry(`"dtype":"F32","shape":${nested},"data_offsets":[0,24]`)],
      ["nested offsets", entry(`"dtype":"F32","shape":[6],"data_offsets":${nested}`)],
      ["a nested dtype", entry(`"dtype":${nested},"shape":[6],"data_offsets":[0,24]`)],
      ["a nested entry", withHeader(`{"a":${nested}}`)],
      ["nested metadata", withHeader(`{"__metadata__":{"a":${nested}}}`)],
      ["a name of a million letters", withHeader(`{"${"n".repeat(1_000_000)}":1}`)],
      [
        "a shape of a million axes",
        entry(`"dtype":"F32","shape":[${"1,".repeat(999_999)}6],"data_offsets":[0,24]`),
      ],
      ["a length of 2^63", bytes(little(2n ** 63n, 8), "{}")],
      ["a length of 2^64 - 1", bytes(little(2n ** 64n - 1n, 8), "{}")],
      ["a length of 100 MB", bytes(little(100_000_000, 8), "{}")],
      [
        "100,000 entries at one place",
        withHeader(
          `{${Array.from({ length: 100_000 }, (_, i) => `"${i}":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}`).join(",")}}`,
        ),
      ],
    ];
    expect(await refusedHeaders(files)).toBe(files.length);
  });

  it("refuses at least 1,000 mutations, and stays within bounds in the others", async () => {
    const content = withHeader(JSON.stringify(good));
    const tally: Tally = { refused: 0, accepted: 0 };
    for (const [i, edit] of sampled(edits, 2000, 5).entries())
      await attempt(tally, `mutation ${i}`, () => parse(mutated(content, edit)));
    expect(tally.refused).toBeGreaterThan(1000);
  });

  it("refuses 200 cut shards and indices that point elsewhere, on the disk", async () => {
    const content = withHeader(JSON.stringify(good));
    const elsewhere = [
      "../x.safetensors",
      "/etc/passwd",
      "a/b.safetensors",
      "..\\x.safetensors",
      "x.bin",
      "",
      "missing.safetensors",
      ".safetensors/..",
      "\u0000.safetensors",
      "cut.safetensors",
    ];
    const tally: Tally = { refused: 0, accepted: 0 };
    const path = join(folder, "cut.safetensors");
    const index = join(folder, "model.safetensors.index.json");
    for (let i = 0; i < 100; i++) {
      await writeFile(path, content.subarray(0, Math.floor((i * content.length) / 100)));
      await attempt(tally, `cut ${i}`, () => openSafetensors(path));
      await writeFile(index, JSON.stringify({ weight_map: { a: elsewhere[i % elsewhere.length] } }));
      await attempt(tally, `index ${i}`, () => openSafetensors(index));
    }
    expect(tally).toEqual({ refused: 200, accepted: 0 });
  });

  it("refuses a sparse file of a terabyte without reading it", async () => {
    const path = join(folder, "huge.safetensors");
    const file = await open(path, "w");
    await file.truncate(2 ** 40);
    await file.close();
    await expect(openSafetensors(path)).rejects.toThrow(UserError);
    const index = join(folder, "huge.safetensors.index.json");
    const wide = await open(index, "w");
    await wide.truncate(2 ** 40);
    await wide.close();
    await expect(openSafetensors(index)).rejects.toThrow(/at most 100000000 of JSON are read here/);
  });
});
