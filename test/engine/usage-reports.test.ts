/** The runtime tells nobody about its use, unless somebody wants it to; and a long command line does not end it. */
import { execFile, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { buildServers, usageReportsAreOn } from "../../src/engine/usage-reports.js";
import { trainBefore, makeTinyWorld } from "../training/tiny-world.js";

const root = fileURLToPath(new URL("../../", import.meta.url));
const main = path.join(root, "src/cli/main.ts");
let home = "";
beforeEach(() => {
  home = mkdtempSync(path.join(tmpdir(), "blip2-home-"));
});
afterEach(() => rmSync(home, { recursive: true }));

/** A process as a user starts it: with a home of its own, and not in continuous integration. */
function environment(more: Record<string, string> = {}): NodeJS.ProcessEnv {
  const without = new Set(["ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", ...buildServers]);
  const rest = Object.entries(process.env).filter(([name]) => !without.has(name));
  return { ...Object.fromEntries(rest), HOME: home, ...more };
}

const node = (words: readonly string[], more?: Record<string, string>) =>
  spawnSync(process.execPath, ["--import", "tsx", ...words], {
    cwd: root,
    encoding: "utf8",
    env: environment(more),
  });

const leftIn = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: "utf8" }).sort();

describe("nothing is left in a fresh home", () => {
  it("by a caption", { timeout: 60_000 }, () => {
    const { status, stderr } = node([main, "caption", "samples/test-1.png", "--beams", "1"]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(leftIn(home)).toEqual([]);
  });

  it("by a training", { timeout: 120_000 }, async () => {
    const world = await makeTinyWorld();
    try {
      await trainBefore(world, "vision");
      const config = await world.configFile("vision", "vision", { steps: 1 });
      const { status } = node([main, "train", "vision", "--config", config, "--out", `${world.root}/run`]);
      expect(status).toBe(0);
      expect(leftIn(home)).toEqual([]);
    } finally {
      await world.remove();
    }
  });

  it("by a program with the library, also in a thread of its own", { timeout: 60_000 }, () => {
    const library = path.join(root, "src/index.ts");
    const lines = [
      `import { Blip2 } from ${JSON.stringify(library)};`,
      `const model = await Blip2.load("models/scenes-opt");`,
      `await model.generate({ image: "samples/test-1.png", numBeams: 1 });`,
      `await model.close();`,
    ].join("\n");
    const program = path.join(home, "program.mts");
    writeFileSync(program, lines);
    expect(node([program])).toMatchObject({ status: 0, stderr: "" });
    const threaded = path.join(home, "threaded.mts");
    writeFileSync(
      threaded,
      [
        `import { Worker } from "node:worker_threads";`,
        `const boot = 'import("tsx/esm/api").then((tsx) => { tsx.register(); return import(${JSON.stringify(program)}); })';`,
        `new Worker(boot, { eval: true });`,
      ].join("\n"),
    );
    expect(node([threaded])).toMatchObject({ status: 0, stderr: "" });
    expect(leftIn(home)).toEqual(["program.mts", "threaded.mts"]);
  });
});

/** What the runtime makes of variables, by what it leaves in the home of a program that only opens a session. */
describe.runIf(process.platform === "linux")("whether the runtime reports is told as it is", () => {
  const script = `const ort = require("onnxruntime-node");
    ort.InferenceSession.create(new Uint8Array([8, 9])).catch(() => undefined);`;

  it.each([
    {},
    { ORT_DISABLE_TELEMETRY: "" },
    { ORT_DISABLE_TELEMETRY: "0" },
    { ORT_DISABLE_TELEMETRY: "True" },
    { ORT_DISABLE_TELEMETRY: " y " },
    { ORT_DISABLE_TELEMETRY: "2" },
    { CI: "false" },
    { CI: "NO" },
    { CI: "anything" },
    { GITHUB_ACTIONS: "true" },
    { JENKINS_URL: "off" },
  ])("with %j", { timeout: 60_000 }, (more) => {
    const env = environment(more);
    const { status } = spawnSync(process.execPath, ["-e", script], { cwd: root, env });
    expect(status).toBe(0);
    expect(usageReportsAreOn(env)).toBe(leftIn(home).length > 0);
  });
});

describe("a variable that somebody has set", () => {
  const script = `import { openDevice } from ${JSON.stringify(path.join(root, "src/engine/node.ts"))};
    await openDevice({ threads: 1 }).close(); process.stdout.write(String(process.env.ORT_DISABLE_TELEMETRY));`;
  const valueWith = (more: Record<string, string>): string =>
    node(["--input-type=module", "-e", script], more).stdout;

  it.each([
    [{}, "1"],
    [{ ORT_DISABLE_TELEMETRY: "0" }, "0"],
    [{ ORT_DISABLE_TELEMETRY: "" }, ""],
  ] as const)("stays: %j", { timeout: 60_000 }, (more, value) => {
    expect(valueWith(more)).toBe(value);
  });
});

it("takes a command line of 5,000 pictures, and a text of 16 kB", { timeout: 120_000 }, async () => {
  const missing = Array.from({ length: 5000 }, (_, i) => `no/such/folder/picture-${i}.jpg`);
  const words = ["--import", "tsx", main, "caption", "samples/test-1.png", ...missing, "--beams", "1"];
  const captions = await promisify(execFile)(process.execPath, words, {
    cwd: root,
    // Wanted or not: the runtime would overflow its stack.
    env: environment({ ORT_DISABLE_TELEMETRY: "0" }),
    maxBuffer: 2 ** 26,
  }).catch((error: unknown) => error as { code: unknown; stdout: string; stderr: string });
  expect(captions).toMatchObject({ code: 1 });
  expect(captions.stdout).toMatch(/^samples\/test-1\.png: a picture of/);
  expect(captions.stderr.match(/this picture does not exist/g)).toHaveLength(5000);

  const text = "a red boat on sand ".repeat(900);
  const { status, stderr } = node([main, "match", "samples/test-1.png", text]);
  expect({ status, isWhole: stderr.length > 1000 }).toEqual({ status: 1, isWhole: false });
  expect(stderr).toMatch(/a text has 17100 characters, at most 6400 are taken/);
});
