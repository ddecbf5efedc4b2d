import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { hubSettings } from "../../src/hub/settings.js";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "blip2-settings-"));
});
afterEach(() => rm(root, { recursive: true, force: true }));

describe("the hub's environment variables", () => {
  it("have the defaults of Python's huggingface_hub", async () => {
    const settings = await hubSettings({ HF_TOKEN_PATH: join(root, "none"), HF_HUB_CACHE: "" });
    expect(settings).toMatchObject({
      endpoint: "https://huggingface.co",
      cache: join(homedir(), ".cache", "huggingface", "hub"),
      token: undefined,
      offline: false,
    });
  });

  it("name the cache, the closest first", async () => {
    const cacheOf = async (env: Record<string, string>): Promise<string> =>
      (await hubSettings({ HF_TOKEN: "x", HOME_OF_MINE: "/h", ...env })).cache;
    expect(await cacheOf({ XDG_CACHE_HOME: "/x" })).toBe("/x/huggingface/hub");
    expect(await cacheOf({ XDG_CACHE_HOME: "/x", HF_HOME: "$HOME_OF_MINE/hf" })).toBe("/h/hf/hub");
    expect(await cacheOf({ HF_HOME: "/h", HUGGINGFACE_HUB_CACHE: "~/c" })).toBe(join(homedir(), "c"));
    expect(await cacheOf({ HUGGINGFACE_HUB_CACHE: "/c", HF_HUB_CACHE: "/d" })).toBe("/d");
  });

  it("name a mirror, the token, and being offline", async () => {
    await writeFile(join(root, "token"), "hf_file\n");
    const home = { HF_HOME: root };
    expect((await hubSettings(home)).token).toBe("hf_file");
    expect((await hubSettings({ ...home, HF_TOKEN: " hf_env\n" })).token).toBe("hf_env");
    expect((await hubSettings({ ...home, HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" })).token).toBeUndefined();
    expect((await hubSettings({ HF_ENDPOINT: "https://mirror.example/hf/" })).endpoint).toBe(
      "https://mirror.example/hf",
    );
    expect((await hubSettings({ HF_HUB_OFFLINE: "yes" })).offline).toBe(true);
    expect((await hubSettings({ TRANSFORMERS_OFFLINE: "1" })).offline).toBe(true);
    expect((await hubSettings({ HF_HUB_OFFLINE: "0" })).offline).toBe(false);
    expect((await hubSettings({ HF_HUB_DOWNLOAD_TIMEOUT: "7" })).timeout).toBe(7000);
  });

  it("are refused where they cannot be meant, and the token is never shown", async () => {
    await expect(hubSettings({ HF_ENDPOINT: "huggingface.co" })).rejects.toThrow(
      'HF_ENDPOINT: the address of a hub is required, such as https://huggingface.co, got "huggingface.co"',
    );
    await expect(hubSettings({ HF_HUB_DOWNLOAD_TIMEOUT: "soon" })).rejects.toThrow(
      'HF_HUB_DOWNLOAD_TIMEOUT: a number of seconds above 0 is required, got "soon"',
    );
    await expect(hubSettings({ HF_TOKEN: "two\nlines" })).rejects.toThrow(
      /^HF_TOKEN: a token of letters and digits without white space is required$/,
    );
  });
});
