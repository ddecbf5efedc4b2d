/** Files that torch wrote, against what they hold (reference/checkpoints.py). */
import { cp, mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateRawSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openPyTorch } from "../../src/checkpoints/pytorch.js";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { openSafetensors, writeSafetensors } from "../../src/checkpoints/safetensors.js";
import { inflate } from "../../src/checkpoints/zip-directory.js";
import { UserError } from "../../src/errors.js";
import { readJsonObject } from "../../src/files/json-file.js";
import { float32Tensor } from "../../src/host-tensor.js";
import { bytes, goodTensor, tensorPickle, torchZip, unicode, whole } from "./hostile.js";

const golden = "test/golden/checkpoints";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "blip2-pytorch-"));
});
afterAll(() => rm(folder, { recursive: true }));

describe("files of torch.save", () => {
  const forms = ["zip-2", "zip-3", "zip-4", "stream-2", "stream-3", "stream-4", "flat"];
  it.each(forms)("reads %s: every type, shared and strided storages, parameters", async (form) => {
    const expected = await (await openSafetensors(`${golden}/forms.safetensors`)).readAll();
    const file = await openPyTorch(`${golden}/forms/${form}.pth`);
    expect(file.leftOut).toEqual(form === "flat" ? [] : ["optimizer", "epoch"]);
    expect([...file.tensors.keys()].sort()).toEqual([...expected.keys()].sort());
    const all = await file.readAll();
    for (const [name, { dtype, dims, data }] of expected) {
      const { dtype: foundType, dims: foundDims, data: found } = all.get(name)!;
      expect([foundType, foundDims, found], name).toEqual([dtype, dims, data]);
      const single = await file.read(name);
      expect(single.data, name).toEqual(data);
      expect(file.tensors.get(name)).toMatchObject({ dtype, dims, length: data.byteLength });
    }
  });

  it("says which ranges of the file are the tensors themselves", async () => {
    const { tensors } = await openPyTorch(`${golden}/forms/zip-2.pth`);
    const computed = [...tensors].filter(([, entry]) => entry.computed).map(([name]) => name);
    expect(computed).toEqual(["float64", "int16", "transposed", "strided"]);
  });

  it("skips configurations of foreign classes outside the model, and names them", async () => {
    const file = await openPyTorch(`${golden}/foreign.pth`);
    expect(file.leftOut).toEqual(["config", "iters"]);
    expect((await file.read("weight")).data).toEqual(Float32Array.of(0, 1, 2));
  });

  it("skips and names such an object among the tensors too", async () => {
    const file = await openPyTorch(`${golden}/foreign-inside.pth`);
    expect(file.leftOut).toContain("model: config");
    expect(file.tensors.has("config")).toBe(false);
  });

  it.each(["omega-list", "type-int", "multistep"])(
    "reads %s, whose other entries protocol 2 spells",
    async (name) => {
      const file = await openPyTorch(`${golden}/${name}.pth`);
      expect([...file.tensors.keys()]).toEqual(["w"]);
      expect((await file.read("w")).data).toEqual(Float32Array.of(1, 1));
      expect(file.leftOut).toEqual([name === "multistep" ? "lr" : "c"]);
    },
  );

  it("reads a file whose entries were deflated", async () => {
    const file = await openPyTorch(`${golden}/deflated.pth`);
    expect([...file.tensors.values()].map(({ dims, computed }) => [dims, computed])).toEqual([
      [[4, 3], true],
      [[4], true],
    ]);
    const found = await file.readAll();
    expect(found.get("bias")!.data).toEqual(
      Float32Array.of(-0.38109099864959717, 0.4818471372127533, 0.031029364094138145, 0.2737889885902405),
    );
    expect([...found.get("weight")!.data].slice(0, 2)).toEqual([-0.11712320148944855, 0.3882293105125427]);
  });

  it("refuses a deflated entry that is broken or longer than it says", () => {
    const packed = deflateRawSync(Buffer.alloc(1000, 7));
    expect(inflate(packed, 1000, "x.pth")).toHaveLength(1000);
    for (const length of [0, 999, 1001]) expect(() => inflate(packed, length, "x.pth")).toThrow(UserError);
    expect(() => inflate(packed.subarray(2), 1000, "x.pth")).toThrow(/a deflated entry is broken/);
  });

  it.each(["state_dict", "model_state_dict", "module"])("finds the tensors under %s", async (name) => {
    const path = join(folder, `${name}.pth`);
    const inner = bytes("}", "(", unicode("w"), tensorPickle(goodTensor), unicode("step"), whole(3), "u");
    await writeFile(
      path,
      torchZip(bytes(0x80, 2, "}", "(", unicode(name), inner, unicode("epoch"), whole(1), "u", ".")),
    );
    const file = await openPyTorch(path);
    expect([...file.tensors.keys()]).toEqual(["w"]);
    expect(file.leftOut).toEqual(["epoch", `${name}: step`]);
  });

  it("refuses a file that is no file of torch", async () => {
    const path = join(folder, "page.pth");
    await writeFile(path, "<html>not found</html>");
    await expect(openPyTorch(path)).rejects.toThrow(/is a web page \(HTML\), not the file itself/);
    await writeFile(path, "not found");
    await expect(openPyTorch(path)).rejects.toThrow(/neither as a zip file nor as a pickle/);
    const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n";
    await writeFile(path, pointer);
    await expect(openPyTorch(path)).rejects.toThrow(`run "git lfs pull" in ${folder} to fetch it`);
    await writeFile(join(folder, "pointer.safetensors"), pointer);
    await expect(openSafetensors(join(folder, "pointer.safetensors"))).rejects.toThrow(/git lfs pull/);
    await writeFile(join(folder, "pointer.json"), pointer);
    await expect(readJsonObject(join(folder, "pointer.json"))).rejects.toThrow(/git lfs pull/);
    await expect(openPyTorch(join(folder, "absent.pth"))).rejects.toThrow(/does not exist/);
    await expect(openPyTorch(folder)).rejects.toThrow(/this is a folder/);
  });

  it("names a tensor that is not there", async () => {
    const file = await openPyTorch(`${golden}/forms/zip-2.pth`);
    await expect(file.read("absent")).rejects.toThrow(UserError);
  });
});

describe("links in model folders", () => {
  const weights = { "vision_model.weight": float32Tensor([1, 2], [2]) };

  it("are refused where they leave the folder, also for shards", async () => {
    const outside = join(folder, "outside.safetensors");
    await writeSafetensors(outside, weights);
    const model = join(folder, "linked");
    await cp(`${golden}/opt`, model, { recursive: true });
    await symlink(outside, join(model, "model.safetensors"));
    await expect(readModelFolder(model)).rejects.toThrow(
      /is a link to .*outside\.safetensors, out of its folder/,
    );
    await rm(join(model, "model.safetensors"));
    await symlink(outside, join(model, "shard.safetensors"));
    const index = { weight_map: { "vision_model.weight": "shard.safetensors" } };
    await writeFile(join(model, "model.safetensors.index.json"), JSON.stringify(index));
    await expect(readModelFolder(model)).rejects.toThrow(/out of its folder/);
    await rm(join(model, "config.json"));
    await symlink("/etc/passwd", join(model, "config.json"));
    await expect(readModelFolder(model)).rejects.toThrow(/config\.json: this is a link to \/etc\/passwd/);
  });

  it("are followed in the hub's cache, from a snapshot to its blobs and nowhere else", async () => {
    const cache = join(folder, "models--a--b");
    const snapshot = join(cache, "snapshots", "0123");
    const blobs = join(cache, "blobs");
    await cp(`${golden}/opt`, snapshot, { recursive: true });
    await cp(`${golden}/opt`, blobs, { recursive: true });
    await writeSafetensors(join(blobs, "hash"), weights);
    await symlink("../../blobs/hash", join(snapshot, "model.safetensors"));
    const { weights: found } = await readModelFolder(snapshot);
    expect([...found.tensors.keys()]).toEqual(["vision_model.weight"]);
    // Another folder may be made of links into the cache, and a cache's blobs may lie on another disk.
    const links = join(folder, "links");
    await cp(`${golden}/opt`, links, { recursive: true });
    await symlink(join(snapshot, "model.safetensors"), join(links, "model.safetensors"));
    expect([...(await readModelFolder(links)).weights.tensors.keys()]).toEqual(["vision_model.weight"]);
    const disk = join(folder, "disk");
    await mkdir(disk);
    await rename(join(blobs, "hash"), join(disk, "hash"));
    await symlink(join(disk, "hash"), join(blobs, "hash"));
    for (const place of [snapshot, links])
      expect([...(await readModelFolder(place)).weights.tensors.keys()]).toEqual(["vision_model.weight"]);
    await rm(join(blobs, "hash"));
    await symlink("/etc/passwd", join(blobs, "hash"));
    for (const place of [snapshot, links])
      await expect(readModelFolder(place)).rejects.toThrow(
        /this is a link to \/etc\/passwd, out of its folder/,
      );
    await rm(join(snapshot, "model.safetensors"));
    await symlink("../../../outside.safetensors", join(snapshot, "model.safetensors"));
    await expect(readModelFolder(snapshot)).rejects.toThrow(/out of its folder/);
  });
});

describe("early revisions with q_bias and v_bias", () => {
  const path = "vision_model.encoder.layers.0.self_attn";

  it("show them as one bias with zeros for the keys", async () => {
    const model = join(folder, "early");
    await cp(`${golden}/opt`, model, { recursive: true });
    await writeSafetensors(join(model, "model.safetensors"), {
      [`${path}.q_bias`]: float32Tensor([1, 2], [2]),
      [`${path}.v_bias`]: float32Tensor([3, 4], [2]),
      other: float32Tensor([5], [1]),
    });
    const { weights } = await readModelFolder(model);
    expect(weights.tensors.get(`${path}.qkv.bias`)).toMatchObject({ dims: [6], length: 24, computed: true });
    const all = await weights.readAll();
    expect([...all.keys()].sort()).toEqual(["other", `${path}.qkv.bias`]);
    expect(all.get(`${path}.qkv.bias`)!.data).toEqual(Float32Array.of(1, 2, 0, 0, 3, 4));
  });

  it("refuse half a pair", async () => {
    const model = join(folder, "half");
    await cp(`${golden}/opt`, model, { recursive: true });
    await writeSafetensors(join(model, "model.safetensors"), { [`${path}.q_bias`]: float32Tensor([1], [1]) });
    await expect(readModelFolder(model)).rejects.toThrow(/q_bias and .*v_bias are required together/);
  });
});
