import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { copyFile, mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toFloat16 } from "../../src/float16.js";
import { openSafetensors, writeSafetensors } from "../../src/checkpoints/safetensors.js";
import { frozen, input, ops, type FrozenWeights } from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import { UserError } from "../../src/errors.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../../src/host-tensor.js";

const device = openDevice({ threads: 1 });
let root: string;
const elsewhere = "/dev/shm";
let shared: string | undefined;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "blip2-test-"));
  const [here, there] = await Promise.all([root, elsewhere].map((path) => stat(path).catch(() => undefined)));
  if (there !== undefined && here!.dev !== there.dev) shared = await mkdtemp(join(elsewhere, "blip2-test-"));
});
afterAll(async () => {
  await device.close();
  await rm(root, { recursive: true });
  if (shared !== undefined) await rm(shared, { recursive: true });
});

const [n, k] = [12, 20];
const matrix = float32Tensor(
  Float32Array.from({ length: n * k }, (_, i) => Math.sin(i * 0.7)),
  [n, k],
);

function bfloat16({ dims, data }: HostTensor): HostTensor {
  const bits = new Uint32Array((data as Float32Array).slice().buffer);
  return { dtype: "bfloat16", dims, data: Uint16Array.from(bits, (value) => value >>> 16) };
}

const forms: Readonly<Record<string, HostTensor>> = {
  float32: matrix,
  float16: toFloat16(matrix, "w"),
  bfloat16: bfloat16(matrix),
};

async function run(
  weights: FrozenWeights,
  onNotice?: (notice: string) => void,
): Promise<Record<string, unknown>> {
  const [w, b] = [frozen("w", [n, k]), frozen("b", [n])];
  const y = ops.linear(input("x", "float32", ["M", k]), w, b);
  const program = await device.compile(
    { y, rows: ops.gatherRows(w, input("ids", "int64", ["T"])) },
    { weights, onNotice },
  );
  const x = float32Tensor(
    Float32Array.from({ length: 3 * k }, (_, i) => Math.cos(i)),
    [3, k],
  );
  const out = await program.run({ x, ids: int64Tensor([3, 0, 11], [3]) });
  await program.release();
  return out;
}

/** Writes the two weights into files of their own, in the folders given. */
async function written(
  w: HostTensor,
  [first, second]: readonly [string, string],
): Promise<Map<string, HostTensor>> {
  const bias = float32Tensor(
    Array.from({ length: n }, (_, i) => i / 7),
    [n],
  );
  await writeSafetensors(join(first, "w.safetensors"), { w, other: float32Tensor([1], [1]) });
  await writeSafetensors(join(second, "b.safetensors"), { b: bias });
  return new Map([
    ["w", w],
    ["b", bias],
  ]);
}

async function stored(first: string, second: string): Promise<FrozenWeights> {
  const [w, b] = [await openSafetensors(first), await openSafetensors(second)];
  return new Map([
    ["w", w.tensors.get("w")!],
    ["b", b.tensors.get("b")!],
  ]);
}

describe.each(Object.keys(forms))("%s weights in place", (form) => {
  it("give the bits of copied ones, from one folder, and leave nothing behind", async () => {
    const folder = await mkdtemp(join(root, "one-"));
    const copied = await written(forms[form]!, [folder, folder]);
    const remarks: string[] = [];
    const found = await run(
      await stored(join(folder, "w.safetensors"), join(folder, "b.safetensors")),
      (remark) => remarks.push(remark),
    );
    expect(found).toEqual(await run(copied));
    expect(remarks).toEqual([]);
    expect((await readdir(folder)).sort()).toEqual(["b.safetensors", "w.safetensors"]);
  });
});

it("follows the links of a hub cache, from folders of their own", async () => {
  const cache = await mkdtemp(join(root, "hub-"));
  const [blobs, snapshot] = [join(cache, "blobs"), join(cache, "snapshots")];
  await mkdir(blobs);
  await mkdir(snapshot);
  const copied = await written(matrix, [cache, cache]);
  await copyFile(join(cache, "w.safetensors"), join(blobs, "4be1"));
  await symlink("../blobs/4be1", join(snapshot, "w.safetensors"));
  // The second file lies in the snapshot itself: two folders.
  await copyFile(join(cache, "b.safetensors"), join(snapshot, "b.safetensors"));
  const remarks: string[] = [];
  const weights = await stored(join(snapshot, "w.safetensors"), join(snapshot, "b.safetensors"));
  expect(await run(weights, (remark) => remarks.push(remark))).toEqual(await run(copied));
  expect(remarks).toEqual([]);
  expect((await readdir(blobs)).sort()).toEqual(["4be1"]);
  expect((await readdir(snapshot)).sort()).toEqual(["b.safetensors", "w.safetensors"]);
});

it("copies, with a remark, where no folder can reach all files", async (context) => {
  if (shared === undefined) return context.skip();
  const copied = await written(matrix, [root, shared]);
  const remarks: string[] = [];
  const weights = await stored(join(root, "w.safetensors"), join(shared, "b.safetensors"));
  expect(await run(weights, (remark) => remarks.push(remark))).toEqual(await run(copied));
  expect(remarks).toEqual([expect.stringMatching(/w\.safetensors are copied into memory.*EXDEV/)]);
  expect((await readdir(shared)).sort()).toEqual(["b.safetensors"]);
  // Of a model's several programs, which share their folders, the first says so.
  await run(weights, (remark) => remarks.push(remark));
  expect(remarks).toHaveLength(1);
});

it("removes what a process that was killed has left behind", async () => {
  const folder = await mkdtemp(join(root, "killed-"));
  await written(matrix, [folder, folder]);
  const { hostname } = await import("node:os");
  const host = createHash("sha256").update(hostname()).digest("hex").slice(0, 8);
  const left = `.blip2-load-${host}-99999999-00000000.onnx`;
  await writeFile(join(folder, left), "");
  await run(await stored(join(folder, "w.safetensors"), join(folder, "b.safetensors")));
  expect((await readdir(folder)).sort()).toEqual(["b.safetensors", "w.safetensors"]);
});

it("names a file that has gone", async () => {
  const folder = await mkdtemp(join(root, "gone-"));
  await written(matrix, [folder, folder]);
  const weights = await stored(join(folder, "w.safetensors"), join(folder, "b.safetensors"));
  await rm(join(folder, "w.safetensors"));
  await expect(run(weights)).rejects.toThrow(UserError);
  await expect(run(weights)).rejects.toThrow(/w\.safetensors: cannot be read \(ENOENT\)/);
});
