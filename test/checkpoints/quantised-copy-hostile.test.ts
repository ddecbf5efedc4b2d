/** Copies beside a model that its shipper, a broken disk or another user put there: never read, never a crash. */
import { execFileSync } from "node:child_process";
import { chmod, chown, mkdir, readFile, readdir, rm, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { frozenValues } from "../../src/checkpoints/quantised-file.js";
import { writeSafetensors, type TensorFile } from "../../src/checkpoints/safetensors.js";
import { frozen, input, ops } from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import { UserError } from "../../src/errors.js";
import { float32Tensor, int64Tensor, type HostTensor, type TypedArray } from "../../src/host-tensor.js";
import { bytesOf, content, copyFolders, k, n, opened, source, type Folders } from "./copied-model.js";

let folders: Folders;
let [root, cache, place] = ["", "", ""];
beforeEach(async () => {
  folders = await copyFolders();
  ({ root, cache, place } = folders);
});
afterEach(() => folders.remove());

/** As the earlier version sealed its copies: anybody can compute that. */
async function checksummed(tensors: Record<string, HostTensor>, metadata: Record<string, string>) {
  const names = Object.keys(tensors)
    .filter((name) => !name.startsWith("blip2."))
    .sort();
  const sums = Uint32Array.from(names, (name) => crc32(bytesOf(tensors[name]!.data)));
  const data = new Uint8Array(sums.buffer);
  const all = Object.fromEntries(names.map((name) => [name, tensors[name]!]));
  await writeSafetensors(
    place,
    { ...all, "blip2.checksums": { dtype: "uint8", dims: [data.length], data } },
    metadata,
  );
}

/** What a stranger may do to the tensors of a copy, by name. */
const attacks: Readonly<Record<string, (tensors: Record<string, HostTensor>) => void>> = {
  "a matrix without its second axis": (t) => {
    t["a.weight.int8"] = { ...t["a.weight.int8"]!, dims: [n * k] };
  },
  "a matrix of other sides": (t) => {
    t["a.weight.int8"] = { ...t["a.weight.int8"]!, dims: [k / 2, n * 2] };
  },
  "4 bits without their third axis": (t) => {
    t["c.weight.int4"] = { ...t["c.weight.int4"]!, dims: [n, 32] };
  },
  "4 bits of another block": (t) => {
    t["c.weight.int4"] = { ...t["c.weight.int4"]!, dims: [n, 2, 16] };
  },
  "a short matrix": (t) => {
    t["a.weight.int8"] = { dtype: "int8", dims: [1, 1], data: new Int8Array(1) };
  },
  "an empty matrix": (t) => {
    t["a.weight.int8"] = { dtype: "int8", dims: [0, n], data: new Int8Array(0) };
  },
  "unsigned values": (t) => {
    t["a.weight.int8"] = { ...t["a.weight.int8"]!, dtype: "uint8" };
  },
  "too few scales": (t) => {
    t["a.weight.scales"] = float32Tensor([1], [1]);
  },
  "scales of no axis": (t) => {
    t["a.weight.scales"] = float32Tensor([1], []);
  },
  "half scales": (t) => {
    t["a.weight.scales"] = { dtype: "float16", dims: [n], data: new Uint16Array(n) };
  },
  "another table": (t) => {
    t["b.weight"] = float32Tensor(new Float32Array(k), [1, k]);
  },
  "another norm": (t) => {
    t["norm.weight"] = float32Tensor([9, 9, 9], [3]);
  },
  "4 bits in place of 8": (t) => {
    t["a.weight.int4"] = t["c.weight.int4"]!;
    delete t["a.weight.int8"];
  },
  "a matrix less": (t) => delete t["a.weight.int8"],
  "scales less": (t) => delete t["a.weight.scales"],
  "a tensor more": (t) => {
    t["norm.weight.int8"] = t["a.weight.int8"]!;
  },
  "two matrices for each other": (t) => {
    [t["a.weight.int8"], t["b.weight.int8"]] = [t["b.weight.int8"]!, t["a.weight.int8"]!];
  },
  "two sets of scales for each other": (t) => {
    [t["c.weight.scales"], t["d.weight.scales"]] = [t["d.weight.scales"]!, t["c.weight.scales"]!];
  },
  ...Object.fromEntries(
    [NaN, Infinity, -Infinity, 0, -1, 3e38].map((value) => [
      `scales of ${value}`,
      (t: Record<string, HostTensor>) => {
        t["a.weight.scales"] = float32Tensor(new Float32Array(n).fill(value), [n]);
        t["c.weight.scales"] = float32Tensor(new Float32Array(n).fill(value), [n, 1]);
      },
    ]),
  ),
};

describe.each(Object.entries(attacks))("a copy with %s", (_, attack) => {
  it("is made again, named, with sums and seals as its maker can have them", async () => {
    const file = await source(root);
    const { copy } = await opened(file);
    const sound = await readFile(place);
    const tensors = Object.fromEntries(await copy.readAll());
    attack(tensors);
    const remade = async (): Promise<void> => {
      const { made, remarks } = await opened(file);
      expect(made).toBe(true);
      expect(remarks).toEqual([expect.stringContaining(`${place}: `)]);
      expect(remarks[0]).toMatch(/; it is made again$/);
      expect(await readFile(place)).toEqual(sound);
    };
    await checksummed(tensors, { ...copy.metadata, version: "1" });
    await remade();
    // The seals that were there, over other tensors.
    await writeSafetensors(place, tensors, copy.metadata);
    await remade();
  });
});

describe("a copy", () => {
  it("of another user's making is not read, whatever it holds", async () => {
    const file = await source(root);
    await opened(file);
    const theirs = await readFile(place);
    vi.stubEnv("XDG_CACHE_HOME", join(cache, "mine"));
    const { made, remarks } = await opened(file);
    expect(made).toBe(true);
    expect(remarks).toEqual([
      expect.stringMatching(
        /is damaged \(a checksum differs\), or was not made by this user; it is made again/,
      ),
    ]);
    const mine = await readFile(place);
    expect(mine).not.toEqual(theirs);
    expect(mine).toHaveLength(theirs.length);
    expect(await opened(file)).toMatchObject({ made: false, remarks: [] });
  });

  it.skipIf(process.getuid?.() !== 0)("that belongs to another user is left alone", async () => {
    const file = await source(root);
    await opened(file);
    vi.stubEnv("XDG_CACHE_HOME", join(cache, "mine"));
    await chown(place, 4321, 4321);
    const theirs = await readFile(place);
    const { made, remarks, copy } = await opened(file);
    expect(made).toBe(true);
    expect(remarks).toEqual([expect.stringMatching(/it is another user's and left as it is$/)]);
    expect(copy.path).toContain(join(cache, "mine"));
    expect(await readFile(place)).toEqual(theirs);
    expect(await opened(file)).toMatchObject({ made: false, remarks: [] });
  });

  it.skipIf(process.platform === "win32")("may be a pipe, a folder or a link and does no harm", async () => {
    const file = await source(root);
    await opened(file);
    const sound = await readFile(place);
    await rm(place);
    execFileSync("sh", ["-c", 'mkfifo "$0"', place]);
    expect((await opened(file)).made).toBe(true);
    expect(await readFile(place)).toEqual(sound);

    const other = join(cache, "precious");
    await writeFile(other, "not a copy");
    await rm(place);
    await symlink(other, place);
    expect((await opened(file)).made).toBe(true);
    expect(await readFile(place)).toEqual(sound);
    expect(await readFile(other, "utf8")).toBe("not a copy");

    await rm(place);
    await mkdir(place);
    const { copy } = await opened(file);
    expect(copy.path.startsWith(cache)).toBe(true);
    expect(await opened(file)).toMatchObject({ made: false });
  });

  it("decides nothing by what the checkpoint itself calls its tensors", async () => {
    const file = await source(root, {
      ...content,
      "norm.weight.int8": { dtype: "int8", dims: [3, 1], data: new Int8Array(3) },
      "norm.weight.scales": float32Tensor([NaN], [1]),
    });
    const { copy } = await opened(file);
    expect(frozenValues(copy, ["norm.weight"]).get("norm.weight")).toMatchObject({
      dtype: "float32",
      dims: [3],
    });
    for (const name of ["a.weight.int8", "a.weight.scales", "c.weight.int4", "blip2.seals"]) {
      const taken = source(root, { ...content, [name]: float32Tensor([1], [1]) });
      await expect(opened(await taken)).rejects.toThrow(UserError);
      await expect(opened(await taken)).rejects.toThrow(
        `holds a tensor "${name}", a name that the quantised copy`,
      );
    }
  });

  it("is not made of a matrix of whole numbers", async () => {
    const file = await source(root, {
      ...content,
      "a.weight": int64Tensor(new BigInt64Array(n * k), [n, k]),
    });
    await expect(opened(file)).rejects.toThrow(/tensor "a.weight" is int64; float32, float16 or bfloat16/);
  });
});

describe("the key", () => {
  const keys = async (): Promise<string[]> =>
    (await readdir(join(cache, "blip2", "quantised"))).filter((name) => name.startsWith("key"));

  it("is this user's alone, and one for all who begin at once", async () => {
    const file = await source(root);
    await Promise.all(Array.from({ length: 8 }, () => opened(file)));
    const [name, ...more] = await keys();
    expect(more).toEqual([]);
    const found = await stat(join(cache, "blip2", "quantised", name!));
    expect(found.size).toBe(32);
    if (process.platform !== "win32") expect(found.mode & 0o777).toBe(0o600);
    expect(await opened(file)).toMatchObject({ made: false, remarks: [] });
  });

  it("is made anew where it is lost or cut short, and the copies with it", async () => {
    const file = await source(root);
    await opened(file);
    const path = join(cache, "blip2", "quantised", (await keys())[0]!);
    for (const lose of [() => rm(path), () => writeFile(path, "short"), () => writeFile(path, "")]) {
      await lose();
      expect((await opened(file)).made).toBe(true);
      expect(await opened(file)).toMatchObject({ made: false, remarks: [] });
    }
  });

  it.skipIf(process.getuid?.() !== 0)("of another user is not used", async () => {
    const file = await source(root);
    await opened(file);
    await chown(join(cache, "blip2", "quantised", (await keys())[0]!), 4321, 4321);
    const { made, remarks } = await opened(file);
    expect(made).toBe(true);
    expect(remarks.at(-1)).toMatch(/cannot be kept \(.*: EACCES\).*set XDG_CACHE_HOME/);
  });
});

describe("where the cache folder cannot be written", () => {
  it("a copy beside the model serves its process, and the variable is named once", async () => {
    const file = await source(root);
    await opened(file); // by another key
    const blocked = join(cache, "file");
    await writeFile(blocked, "");
    vi.stubEnv("XDG_CACHE_HOME", blocked);
    const { made, remarks, copy } = await opened(file);
    expect(made).toBe(true);
    expect(copy.path).toBe(place);
    expect(remarks).toEqual([
      expect.stringMatching(
        /cannot be kept .*so every process makes its own; set XDG_CACHE_HOME to a folder/,
      ),
    ]);
    expect(await opened(file)).toMatchObject({ made: false, remarks: [] });
  });

  it.skipIf(process.platform !== "linux")(
    "nor the model's, it is refused and the variable named",
    async () => {
      const file: TensorFile = { ...(await source(root)), path: "/sys/kernel/model.safetensors" };
      for (const home of [join(root, "model.safetensors"), "/sys/kernel", "/proc/nothing"]) {
        vi.stubEnv("XDG_CACHE_HOME", home);
        await expect(opened(file)).rejects.toThrow(UserError);
        await expect(opened(file)).rejects.toThrow(
          /there is no place for its int8 copy \(\/sys\/kernel: \w+, .*\); set XDG_CACHE_HOME to a folder/,
        );
      }
    },
  );

  it("and HOME neither, it is as if it did not exist", async () => {
    vi.stubEnv("XDG_CACHE_HOME", "");
    vi.stubEnv("HOME", join(root, "model.safetensors"));
    vi.stubEnv("USERPROFILE", join(root, "model.safetensors"));
    const { copy, remarks } = await opened(await source(root));
    expect(copy.path).toBe(place);
    expect(remarks).toEqual([expect.stringMatching(/set XDG_CACHE_HOME/)]);
  });
});

it("computes with the copy that was made again", async () => {
  const file = await source(root);
  await using device = openDevice({ threads: 1 });
  const x = float32Tensor(
    Float32Array.from({ length: 2 * k }, (_, i) => Math.cos(i)),
    [2, k],
  );
  const product = async (copy: TensorFile): Promise<TypedArray> => {
    const outputs = { y: ops.linear(input("x", "float32", ["M", k]), frozen("a.weight", [n, k])) };
    const program = await device.compile(outputs, { weights: frozenValues(copy, ["a.weight"]) });
    return (await program.run({ x }))["y"]!.data;
  };
  const right = await product((await opened(file)).copy);
  const tensors = Object.fromEntries(await (await opened(file)).copy.readAll());
  attacks["a matrix without its second axis"]!(tensors);
  await checksummed(tensors, { version: "1" });
  await chmod(place, 0o644);
  expect(await product((await opened(file)).copy)).toEqual(right);
});
