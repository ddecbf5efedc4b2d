import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { recoverFolder, writeFileAtomic, writeFolderAtomic } from "../../src/files/atomic-write.js";
import { UserError } from "../../src/errors.js";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "blip2-atomic-"));
});
afterEach(() => rm(root, { recursive: true, force: true }));

const noSpace = () => Promise.reject(Object.assign(new Error("write failed"), { code: "ENOSPC" }));
const always = { replaceable: () => true };
const fillWith = (text: string) => (folder: string) => writeFile(join(folder, "content"), text);
const contentOf = (folder: string) => readFile(join(folder, "content"), "utf8");

describe("writeFileAtomic", () => {
  it("makes parents, replaces, and leaves nothing beside", async () => {
    const path = join(root, "deep", "er", "x.txt");
    await writeFileAtomic(path, "one");
    await writeFileAtomic(path, Uint8Array.of(0x32));
    expect(await readFile(path, "utf8")).toBe("2");
    await writeFileAtomic(path, async (file) => {
      await file.writeFile("thr");
      await file.writeFile("ee");
    });
    expect(await readFile(path, "utf8")).toBe("three");
    expect(await readdir(join(root, "deep", "er"))).toEqual(["x.txt"]);
  });

  it("keeps the old file and says so when the disk is full", async () => {
    const path = join(root, "x");
    await writeFileAtomic(path, "old");
    await expect(writeFileAtomic(path, noSpace)).rejects.toThrow(
      new UserError(
        `${path}: no space is left on this disk; what was there before is unchanged and the partial copy is removed; free some space or choose another disk`,
      ),
    );
    expect(await readFile(path, "utf8")).toBe("old");
    expect(await readdir(root)).toEqual(["x"]);
  });

  it("passes other failures on and cleans up", async () => {
    const failure = new Error("mine");
    await expect(writeFileAtomic(join(root, "x"), () => Promise.reject(failure))).rejects.toBe(failure);
    expect(await readdir(root)).toEqual([]);
  });

  it("refuses a path through a file and the place of a folder", async () => {
    await writeFile(join(root, "file"), "");
    await mkdir(join(root, "folder"));
    await expect(writeFileAtomic(join(root, "file", "x"), "")).rejects.toThrow(
      `${root}/file/x: a part of this path is a file, not a folder; choose another path`,
    );
    await expect(writeFileAtomic(join(root, "folder"), "")).rejects.toThrow(
      `${root}/folder: a file is to be written here, but a folder has this name; choose another path`,
    );
    expect((await readdir(root)).sort()).toEqual(["file", "folder"]);
  });

  it("removes what killed writers left, and nothing of living ones", async () => {
    const name = (pid: number) => `.x.blip2-tmp-${hostname().replace(/[^\w.]/g, "_")}-${pid}-abcd`;
    const dead = 2 ** 22 + 1;
    for (const left of [name(dead), name(process.ppid), ".x.blip2-tmp-elsewhere-1-abcd"])
      await writeFile(join(root, left), "");
    await writeFileAtomic(join(root, "x"), "");
    expect((await readdir(root)).sort()).toEqual(
      [name(process.ppid), ".x.blip2-tmp-elsewhere-1-abcd", "x"].sort(),
    );
  });
});

describe("writeFolderAtomic", () => {
  it("writes, replaces whole, and leaves nothing beside", async () => {
    const path = join(root, "run", "model");
    await writeFolderAtomic(path, async (folder) => {
      await mkdir(join(folder, "sub"));
      await writeFile(join(folder, "sub", "old"), "");
    });
    await writeFolderAtomic(path, fillWith("new"), always);
    expect(await readdir(path)).toEqual(["content"]);
    expect(await readdir(join(root, "run"))).toEqual(["model"]);
  });

  it("replaces an empty folder, but nothing else unless told", async () => {
    const path = join(root, "x");
    await mkdir(path);
    await writeFolderAtomic(path, fillWith("first"));
    await expect(writeFolderAtomic(path, fillWith("second"))).rejects.toThrow(
      `${path}: this folder holds other things (content) and will not be replaced; choose an empty or new folder`,
    );
    await writeFile(join(root, "file"), "");
    await expect(writeFolderAtomic(join(root, "file"), fillWith(""), always)).rejects.toThrow(UserError);
    expect(await contentOf(path)).toBe("first");
  });

  it("keeps the old folder when the disk is full", async () => {
    const path = join(root, "x");
    await writeFolderAtomic(path, fillWith("old"));
    await expect(writeFolderAtomic(path, noSpace, always)).rejects.toThrow("no space is left on this disk");
    expect(await contentOf(path)).toBe("old");
    expect(await readdir(root)).toEqual(["x"]);
  });

  it("puts the old folder back after a kill between the two moves", async () => {
    const path = join(root, "x");
    await writeFolderAtomic(path, fillWith("old"));
    await rename(path, join(root, ".x.blip2-old"));
    expect(await recoverFolder(path)).toBe(path);
    expect(await contentOf(path)).toBe("old");
    await rename(path, join(root, ".x.blip2-old"));
    await expect(writeFolderAtomic(path, noSpace, always)).rejects.toThrow("no space");
    expect(await contentOf(path)).toBe("old");
  });

  it("prefers the new folder after a kill before the old one was deleted", async () => {
    const path = join(root, "x");
    await writeFolderAtomic(path, fillWith("new"));
    await mkdir(join(root, ".x.blip2-old"));
    await fillWith("old")(join(root, ".x.blip2-old"));
    expect(await recoverFolder(path)).toBe(path);
    expect(await contentOf(path)).toBe("new");
    await writeFolderAtomic(path, fillWith("newer"), always);
    expect(await readdir(root)).toEqual(["x"]);
  });

  it("leaves a place alone that never was a folder", async () => {
    expect(await recoverFolder(join(root, "none"))).toBe(join(root, "none"));
    expect(await readdir(root)).toEqual([]);
  });
});

it("survives SIGKILL at any moment: always one whole version", { timeout: 60_000 }, async () => {
  let last = 0;
  for (let round = 0; round < 8; round++) {
    const child = spawn(
      process.execPath,
      ["--import", "tsx", "test/checkpoints/fixtures/kill-child.ts", root],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    await once(child.stdout, "data");
    // Until the first version is there, each child has twice as long: a busy machine may give it little of that.
    const patience = last === 0 ? 2 ** round : 1;
    await new Promise((done) => setTimeout(done, (20 + round * 7) * patience));
    child.kill("SIGKILL");
    await once(child, "exit");

    const versionOf = (text: string): number => {
      const version = Number.parseInt(text, 10);
      expect(text === `${version} `.repeat(20_000)).toBe(true);
      return version;
    };
    const seen = (await readdir(root)).filter((name) => name === "folder" || name === ".folder.blip2-old");
    if (last > 0) expect(seen.length).toBeGreaterThan(0);
    if (seen.length === 0) continue;
    last = versionOf(await readFile(join(root, "file"), "utf8"));
    const folder = await recoverFolder(join(root, "folder"));
    expect(versionOf(await readFile(join(folder, "a"), "utf8"))).toBe(
      versionOf(await readFile(join(folder, "b"), "utf8")),
    );
  }
  expect(last).toBeGreaterThan(0);
  // The next writer cleans up after all the killed ones.
  await writeFileAtomic(join(root, "file"), "");
  await writeFolderAtomic(join(root, "folder"), fillWith("end"), always);
  expect((await readdir(root)).sort()).toEqual(["file", "folder"]);
});
