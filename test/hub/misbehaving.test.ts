/** Hubs, mirrors and networks that do something wrong: each ends in bounded time, right or with a sentence that says why. */
import { mkdtemp, readdir, readFile, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { commit, modelId, smallFiles, smallModel } from "../../bench/robustness/hub-answers.js";
import { hubFaults, patienceFor } from "../../bench/robustness/hub-faults.js";
import { UserError } from "../../src/errors.js";
import { findModel } from "../../src/hub/hub.js";
import { hubSettings, type HubSettings } from "../../src/hub/settings.js";
import { LoopbackHub } from "../checkpoints/loopback-hub.js";

let root: string;
let hub: LoopbackHub;
let settings: HubSettings;
beforeEach(async () => {
  root = await realpath(await mkdtemp(join(tmpdir(), "blip2-hub-")));
  hub = await new LoopbackHub([smallModel()]).start();
  const cache = join(root, "cache", "hub");
  settings = {
    endpoint: hub.endpoint,
    cache,
    token: "secret",
    offline: false,
    timeout: 20_000,
    retries: 2,
    pause: 1,
  };
});
afterEach(async () => {
  vi.restoreAllMocks();
  await hub.stop();
  await rm(root, { recursive: true, force: true });
});

describe("a hub that gives", () => {
  it.each(hubFaults.map((fault) => [fault.name, fault] as const))("%s", async (_, fault) => {
    const files = fault.files?.() ?? smallFiles();
    hub.models[0] = smallModel(files);
    hub.interfere = fault.interference();
    const work = findModel(
      modelId,
      { revision: fault.revision, onNotice: () => undefined },
      { ...settings, timeout: patienceFor(fault) },
    );
    if (fault.ends === "right") {
      const folder = await work;
      expect(folder).toBe(join(settings.cache, "models--org--small-blip", "snapshots", commit));
      const names = (await readdir(folder)).sort();
      expect(names).toEqual(
        Object.keys(smallFiles())
          .filter((name) => name !== "README.md")
          .sort(),
      );
      for (const name of names)
        expect((await readFile(join(folder, name))).equals(files[name]!), name).toBe(true);
    } else {
      const error = await work.then(
        () => new Error("was accepted"),
        (thrown: unknown) => thrown as Error,
      );
      expect(error).toBeInstanceOf(UserError);
      expect(error.message).toMatch(fault.ends);
      expect(error.message).toMatch(/org(\/|--)small-blip/);
      expect(error.message.length).toBeLessThan(1000);
    }
    expect(await readdir(root)).toEqual(
      fault.ends === "right" ? ["cache"] : expect.not.arrayContaining(["evil"]),
    );
    const elsewhere = hub.asked.filter(
      ({ host, authorization }) => host === "store" && authorization !== undefined,
    );
    expect(elsewhere).toEqual([]);
  });
});

describe("a timeout that setTimeout cannot hold", () => {
  it.each(["2147484", "1e12", "Infinity"])("%s seconds is a long time, not none", async (seconds) => {
    const { timeout } = await hubSettings({ HF_HUB_DOWNLOAD_TIMEOUT: seconds, HF_TOKEN: "x" });
    await findModel(modelId, {}, { ...settings, timeout });
    expect(hub.asked.filter(({ path }) => path.includes("/revision/"))).toHaveLength(1);
  });
});

it("a redirect from https to http is not followed", async () => {
  const answer = new Response(JSON.stringify({ sha: commit }));
  Object.defineProperty(answer, "url", { value: "http://mirror.example/api" });
  vi.spyOn(globalThis, "fetch").mockResolvedValue(answer);
  await expect(findModel(modelId, {}, { ...settings, endpoint: "https://hub.example" })).rejects.toThrow(
    "org/small-blip (revision main): hub.example leads from https to the unprotected http://mirror.example, which is not followed; check HF_ENDPOINT",
  );
});

it("a notice without a listener is a warning of the process, once for all calls", async () => {
  await findModel(modelId, {}, settings);
  const warning = vi.spyOn(process, "emitWarning").mockImplementation(() => undefined);
  await hub.stop();
  for (let i = 0; i < 3; i++) await findModel(modelId, {}, settings);
  expect(warning.mock.calls.flat()).toEqual([
    `org/small-blip (revision main): the hub cannot be reached; the copy in the cache is used (${commit})`,
  ]);
  hub = await new LoopbackHub([]).start();
});
