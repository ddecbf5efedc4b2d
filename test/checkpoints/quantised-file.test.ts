import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toFloat16, toFloat32 } from "../../src/float16.js";
import { frozenValues, openQuantised, type Quantisation } from "../../src/checkpoints/quantised-file.js";
import { openSafetensors, writeSafetensors, type TensorFile } from "../../src/checkpoints/safetensors.js";
import { InterruptedError, UserError } from "../../src/errors.js";
import {
  float32Tensor,
  type HostTensor,
  type QuantisedMatrix,
  type StoredTensor,
} from "../../src/host-tensor.js";

let root: string;
let cache: string;
beforeEach(async () => {
  [root, cache] = [
    await mkdtemp(join(tmpdir(), "blip2-test-")),
    await mkdtemp(join(tmpdir(), "blip2-test-cache-")),
  ];
  vi.stubEnv("XDG_CACHE_HOME", cache);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  for (const folder of [root, cache]) await rm(folder, { recursive: true });
});

const [n, k] = [6, 40];
const values = Float32Array.from({ length: n * k }, (_, i) => Math.fround(Math.sin(i * 0.7)));

/** float32, cut to what bfloat16 can hold. */
const cut = values.map(
  (value) =>
    new Float32Array(
      Uint32Array.of(new Uint32Array(Float32Array.of(value).buffer)[0]! & 0xffff0000).buffer,
    )[0]!,
);
const bfloat16: HostTensor = {
  dtype: "bfloat16",
  dims: [n, k],
  data: Uint16Array.from(new Uint32Array(cut.slice().buffer), (bits) => bits >>> 16),
};

function tensors(matrix: HostTensor = float32Tensor(values, [n, k])): Record<string, HostTensor> {
  return { "layer.weight": matrix, "words.weight": matrix, "norm.weight": float32Tensor([1, 2, 3], [3]) };
}

const options = (extra: Partial<Quantisation> = {}): Quantisation => ({
  precision: "int8",
  form: (name) =>
    name === "layer.weight"
      ? { bits: 4, table: false }
      : name === "words.weight"
        ? { bits: 8, table: true }
        : undefined,
  ...extra,
});

async function source(content: Readonly<Record<string, HostTensor>> = tensors()): Promise<TensorFile> {
  await writeSafetensors(join(root, "model.safetensors"), content);
  return openSafetensors(join(root, "model.safetensors"));
}

/** Opens the copy and says whether it was made for that, and what was remarked. */
async function opened(
  file: TensorFile,
  extra: Partial<Quantisation> = {},
): Promise<{ made: boolean; remarks: string[]; copy: TensorFile }> {
  let made = false;
  const remarks: string[] = [];
  const copy = await openQuantised(
    file,
    options({
      onProgress: ({ detail }) => (made ||= detail === "quantise"),
      onNotice: (remark) => remarks.push(remark),
      ...extra,
    }),
  );
  return { made, remarks, copy };
}

describe("a quantised copy", () => {
  it("holds matrices in few bits, tables and all else as they are", async () => {
    const file = await source();
    const { copy } = await opened(file);
    expect(copy.path).toBe(join(root, "blip2-int8.safetensors"));
    const found = frozenValues(copy, ["layer.weight", "words.weight", "norm.weight"]);
    expect(found.get("layer.weight")).toMatchObject({ quantised: "int4", dims: [n, k] });
    expect(found.get("layer.weight")).not.toHaveProperty("table");
    const words = found.get("words.weight") as QuantisedMatrix;
    expect(words).toMatchObject({ quantised: "int8", dims: [n, k], values: { dims: [k, n] } });
    expect((words.table as StoredTensor).file).toBe(copy.path);
    expect((await copy.read("words.weight")).data).toEqual(values);
    expect([...(await copy.read("norm.weight")).data]).toEqual([1, 2, 3]);
    const [held, scales] = [await copy.read("words.weight.int8"), await copy.read("words.weight.scales")];
    for (let at = 0; at < n * k; at++) {
      const row = Math.floor(at / k);
      const value = Number(held.data[(at % k) * n + row]) * Number(scales.data[row]);
      expect(Math.abs(value - values[at]!)).toBeLessThanOrEqual(0.51 * Number(scales.data[row]));
    }
  });

  it.each([
    [
      "float16",
      toFloat16(float32Tensor(values, [n, k]), "m"),
      toFloat32(toFloat16(float32Tensor(values, [n, k]), "m")),
    ],
    ["bfloat16", bfloat16, float32Tensor(cut, [n, k])],
  ])("of a %s source is that of the same numbers in float32", async (_, narrow, wide) => {
    const { copy: first } = await opened(await source(tensors(narrow)));
    const names = ["layer.weight.int4", "layer.weight.scales", "words.weight.int8", "words.weight.scales"];
    const found = await first.readAll(names);
    const { copy: second } = await opened(await source(tensors(wide)));
    expect(await second.readAll(names)).toEqual(found);
  });

  it("of a sharded source is that of one file", async () => {
    const content = tensors();
    const { copy: whole } = await opened(await source(content));
    // Seals are of the source, too.
    const names = [...whole.tensors.keys()].filter((name) => name !== "blip2.seals");
    const expected = await whole.readAll(names);
    const shards: Record<string, string> = {};
    for (const [i, [name, tensor]] of Object.entries(content).entries()) {
      shards[name] = `model-${i}.safetensors`;
      await writeSafetensors(join(root, shards[name]), { [name]: tensor });
    }
    const index = join(root, "model.safetensors.index.json");
    await writeFile(index, JSON.stringify({ metadata: {}, weight_map: shards }));
    const { made, copy } = await opened(await openSafetensors(index));
    expect(made).toBe(true);
    expect(await copy.readAll(names)).toEqual(expected);
  });

  it("reads tensors that do not lie in the file as they are", async () => {
    const file = await source();
    const { copy: plain } = await opened(file);
    const expected = await plain.readAll(["layer.weight.int4", "words.weight.int8"]);
    // The bytes there are others; only reading gives the numbers.
    const other = await source(tensors(float32Tensor(values.map(Math.cos), [n, k])));
    const computed = new Map(
      [...other.tensors].map(([name, entry]) => [name, { ...entry, computed: true as const }]),
    );
    const read = (name: string): Promise<HostTensor> => Promise.resolve(tensors()[name]!);
    const { copy } = await opened({ ...other, tensors: computed, read });
    const found = await copy.readAll([...expected.keys()]);
    expect(found).toEqual(expected);
  });

  it("is used again", async () => {
    const file = await source();
    await opened(file);
    const before = await stat(join(root, "blip2-int8.safetensors"));
    expect(await opened(file)).toMatchObject({ made: false, remarks: [] });
    expect((await stat(join(root, "blip2-int8.safetensors"))).mtimeMs).toBe(before.mtimeMs);
  });

  it("is made again for other weights, also where size and time are the same", async () => {
    const file = await source();
    const time = new Date(1985, 9, 26);
    await utimes(file.path, time, time);
    await opened(file);
    const other = await source(
      tensors(
        float32Tensor(
          values.map((value) => -value),
          [n, k],
        ),
      ),
    );
    await utimes(other.path, time, time);
    expect(await opened(other)).toMatchObject({
      made: true,
      remarks: [expect.stringMatching(/was made of other weights; it is made again/)],
    });
    expect(await opened(other)).toMatchObject({ made: false, remarks: [] });
  });

  it("is made again for another choice of layers", async () => {
    const file = await source();
    await opened(file);
    const { made } = await opened(file, { form: () => undefined });
    expect(made).toBe(true);
  });

  it.each([
    [
      "a byte of a tensor differs",
      /is damaged \(a checksum differs\)/,
      (bytes: Buffer) => (bytes[bytes.length - 60]! ^= 4),
    ],
    ["it is cut", /is damaged; it is made again/, (bytes: Buffer) => bytes.subarray(0, bytes.length - 7)],
    ["it is empty", /is damaged; it is made again/, () => Buffer.alloc(0)],
  ])("is made again if %s", async (_, remark, change) => {
    const file = await source();
    const place = join(root, "blip2-int8.safetensors");
    await opened(file);
    const sound = await readFile(place);
    const bytes = Buffer.from(sound);
    const changed = change(bytes);
    await writeFile(place, typeof changed === "number" ? bytes : changed);
    expect(await opened(file)).toMatchObject({ made: true, remarks: [expect.stringMatching(remark)] });
    expect(await readFile(place)).toEqual(sound);
  });

  it.skipIf(process.platform !== "linux")(
    "lies in the cache folder where its own cannot be written",
    async () => {
      const file = await source();
      // A folder that nobody may write in, not even root.
      const immutable: TensorFile = { ...file, path: "/sys/kernel/model.safetensors" };
      const { made, remarks, copy } = await opened(immutable);
      expect(made).toBe(true);
      expect(copy.path.startsWith(join(cache, "blip2", "quantised"))).toBe(true);
      expect(remarks).toEqual([
        expect.stringMatching(/the int8 copy of .* is kept in .*cache.*, as its own folder/),
      ]);
      expect(await opened(immutable)).toMatchObject({ made: false, remarks: [] });
    },
  );

  it("refuses values that are not finite, naming the tensor, and leaves nothing behind", async () => {
    const broken = float32Tensor(
      values.map((value, i) => (i === 77 ? NaN : value)),
      [n, k],
    );
    const file = await source(tensors(broken));
    await expect(opened(file)).rejects.toThrow(UserError);
    await expect(opened(file)).rejects.toThrow(/tensor "layer.weight" holds values that are not finite/);
    expect(await readdir(root)).toEqual(["model.safetensors"]);
  });

  it("is not begun when the signal says stop", async () => {
    const file = await source();
    await expect(opened(file, { signal: AbortSignal.abort() })).rejects.toThrow(InterruptedError);
    expect(await readdir(root)).toEqual(["model.safetensors"]);
  });

  it("says what is missing", async () => {
    const { copy } = await opened(await source());
    expect(() => frozenValues(copy, ["head.weight"])).toThrow(/has no tensor "head.weight"/);
  });
});
