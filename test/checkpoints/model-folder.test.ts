import { mkdir, mkdtemp, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  checkTensors,
  layersMustFit,
  readModelFolder,
  writeModelFolder,
} from "../../src/checkpoints/model-folder.js";
import { UserError } from "../../src/errors.js";
import { float32Tensor, int64Tensor } from "../../src/host-tensor.js";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "blip2-folder-"));
});
afterEach(() => rm(root, { recursive: true, force: true }));

const config = { model_type: "blip-2", num_query_tokens: 4 };
const tensors = { "a.weight": float32Tensor([0.1, 1], [2]), ids: int64Tensor([7], [1]) };
const refusal = async (work: Promise<unknown>): Promise<string> => {
  const error = await work.then(
    () => new Error("was accepted"),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as Error).message.replaceAll(root, "DIR");
};

describe("model folders", () => {
  it("reads back what was written", async () => {
    const path = join(root, "m");
    const files = { "preprocessor_config.json": { size: 96 }, "merges.txt": "#version: 0.2\n" };
    await writeModelFolder(path, { config, tensors, dtype: "float32", files });
    const folder = await readModelFolder(path);
    expect(folder.config).toEqual(config);
    expect(folder.preprocessor).toEqual({ size: 96 });
    expect(folder).not.toHaveProperty("generationConfig");
    expect(folder.files).toEqual([
      "config.json",
      "merges.txt",
      "model.safetensors",
      "preprocessor_config.json",
    ]);
    expect(folder.weights.metadata).toEqual({ format: "pt" });
    expect(await folder.weights.readAll()).toEqual(new Map(Object.entries(tensors)));
    expect(await readFile(join(path, "merges.txt"), "utf8")).toBe("#version: 0.2\n");
  });

  it("stores floats as float16 and whole numbers as they are", async () => {
    await writeModelFolder(root + "/m", {
      config,
      tensors: new Map(Object.entries(tensors)),
      dtype: "float16",
    });
    const { weights } = await readModelFolder(root + "/m");
    expect(weights.tensors.get("a.weight")!.dtype).toBe("float16");
    expect((await weights.read("a.weight")).data).toEqual(Uint16Array.of(0x2e66, 0x3c00));
    expect(await weights.read("ids")).toEqual(tensors.ids);
    await writeModelFolder(root + "/m", {
      config,
      tensors: Object.fromEntries(await weights.readAll()),
      dtype: "float32",
    });
    expect((await (await readModelFolder(root + "/m")).weights.read("a.weight")).dims).toEqual([2]);
  });

  it("replaces a model folder, but no other folder, and leaves it alone on failure", async () => {
    const path = join(root, "m");
    await writeModelFolder(path, { config, tensors, dtype: "float32", files: { old: "" } });
    const tooLarge = { x: float32Tensor([1e6], [1]) };
    expect(await refusal(writeModelFolder(path, { config, tensors: tooLarge, dtype: "float16" }))).toContain(
      "tensor x: element 0",
    );
    expect((await readModelFolder(path)).files).toContain("old");
    await writeModelFolder(path, { config: { changed: true }, tensors, dtype: "float32" });
    expect((await readModelFolder(path)).files).toEqual(["config.json", "model.safetensors"]);

    await mkdir(join(root, "home"));
    await writeFile(join(root, "home", "letter.txt"), "");
    expect(
      await refusal(writeModelFolder(join(root, "home"), { config, tensors, dtype: "float32" })),
    ).toMatchInlineSnapshot(
      `"DIR/home: this folder holds other things (letter.txt) and will not be replaced; choose an empty or new folder"`,
    );
    expect(await readdir(join(root, "home"))).toEqual(["letter.txt"]);
  });

  it("is readable when the writer was killed between its two moves", async () => {
    const path = join(root, "m");
    await writeModelFolder(path, { config, tensors, dtype: "float32" });
    await rename(path, join(root, ".m.blip2-old"));
    expect((await readModelFolder(path)).config).toEqual(config);
  });

  it("says what is missing or broken", async () => {
    const path = join(root, "m");
    expect(await refusal(readModelFolder(path))).toMatchInlineSnapshot(`"DIR/m: this folder does not exist"`);
    await writeFile(path, "");
    expect(await refusal(readModelFolder(path))).toMatchInlineSnapshot(
      `"DIR/m: a model folder is required, this is a file"`,
    );
    await rm(path);
    await mkdir(path);
    expect(await refusal(readModelFolder(path))).toMatchInlineSnapshot(
      `"DIR/m: not a model folder: it has no config.json; give a folder as published on the Hugging Face hub or written by blip2 train"`,
    );
    await writeFile(join(path, "config.json"), "{}");
    expect(await refusal(readModelFolder(path))).toMatchInlineSnapshot(
      `"DIR/m: model.safetensors or model.safetensors.index.json is required, neither is there; fetch the folder again, it may be incomplete"`,
    );
    await writeFile(join(path, "pytorch_model.bin"), "");
    expect(await refusal(readModelFolder(path))).toMatchInlineSnapshot(
      `"DIR/m: model.safetensors or model.safetensors.index.json is required, neither is there; it has pytorch_model.bin, which must be converted first: blip2 convert FOLDER OUT"`,
    );
    await writeFile(join(path, "config.json"), "[]");
    expect(await refusal(readModelFolder(path))).toMatchInlineSnapshot(
      `"DIR/m/config.json: a JSON object is required, got a list"`,
    );
    await writeFile(join(path, "config.json"), "{");
    expect(await refusal(readModelFolder(path))).toMatch(/^DIR\/m\/config.json: not JSON \(/);
  });
});

describe("checkTensors", () => {
  const expected = new Map([
    ["a", [2, 3]],
    ["b", [4]],
    ["tied", [4]],
    ["c", []],
  ]);
  const found = (shapes: Record<string, number[]>) =>
    new Map(Object.entries(shapes).map(([name, dims]) => [name, { dims }]));

  it("sorts every name into one list", () => {
    const report = checkTensors(expected, found({ b: [4], a: [2, 3], c: [], "x.position_ids": [1] }), "f", {
      optional: (name) => name === "tied",
      ignored: (name) => name.endsWith("position_ids"),
    });
    expect(report).toEqual({ loaded: ["a", "b", "c"], absent: ["tied"], skipped: ["x.position_ids"] });
  });

  it("names everything that is wrong at once", () => {
    const shapes = { a: [3, 2], b: [4, 1], extra: [1], more: [] };
    expect(() => checkTensors(expected, found(shapes), "m/model.safetensors"))
      .toThrowErrorMatchingInlineSnapshot(`
      [UserError: m/model.safetensors: the weights do not fit the model of its config (0 of 4 tensors fit); check that config and weights belong together
      2 missing:
        tied
        c
      2 of another shape:
        a (required [2, 3], got [3, 2])
        b (required [4], got [4, 1])
      2 not expected:
        extra
        more]
    `);
  });

  it("names the first twenty of many", () => {
    const many = Object.fromEntries(Array.from({ length: 25 }, (_, i) => [`x${i}`, [1]]));
    expect(() => checkTensors(new Map(), found(many), "m")).toThrow(
      /25 not expected:\n {2}x0\n[^]*x19\n {2}and 5 more$/,
    );
  });

  it("passes over tensors that nothing reads, with a notice, where that is allowed", () => {
    const notices: string[] = [];
    const extra = (notice: string): unknown => notices.push(notice);
    const all = { a: [2, 3], b: [4], c: [], tied: [4], "head.weight": [2] };
    expect(
      checkTensors(expected, found(all), "m", { extra: (notice) => void extra(notice) }).skipped,
    ).toEqual(["head.weight"]);
    expect(notices).toEqual(["m: holds 1 tensors that nothing here reads: head.weight"]);
    expect(() =>
      checkTensors(expected, found({ "head.weight": [2] }), "m", { extra: () => undefined }),
    ).toThrow(/4 missing[^]*1 not expected/);
  });

  it("refuses a config of more layers than the file has tensors, before a model is built", () => {
    const config = { vision_config: { num_hidden_layers: 100_000 } };
    expect(() => layersMustFit(config, expected, "c")).toThrow(
      "c: vision_config: num_hidden_layers is 100000",
    );
    expect(() => layersMustFit({ text_config: { num_layers: 4 } }, expected, "c")).not.toThrow();
  });
});
