/** What callers see when what the runtime lives in fails: the cause, not a device that seems closed. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { build, built, script } from "./built-engine.js";

const modules = fileURLToPath(new URL("../../node_modules", import.meta.url));
beforeAll(build);

/** Lines that run in a thread, whose runtime is a process; `child` is that process. */
const inThread = (lines: string): string => `
  import { Worker } from "node:worker_threads";
  const source = \`
    const cp = require("node:child_process");
    const { syncBuiltinESMExports } = require("node:module");
    const { fork } = cp;
    let child;
    cp.fork = (...words) => (child = fork(...words));
    syncBuiltinESMExports();
    const at = (file) => import("file://" + process.cwd() + "/engine/" + file);
    (async () => {
      const { input, ops } = await at("index.js");
      const { openDevice } = await at("node.js");
      ${lines}
    })();
  \`;
  new Worker(source, { eval: true, execArgv: [] });`;

const tryIt = `
  const device = openDevice({ threads: 1 });
  const compile = () => device.compile({ y: ops.neg(input("x", "float32", [1])) });
  const said = (error) => console.log(error.name, error.message, "<-", error.cause?.message);
  await compile().catch(said);
  await compile().catch(said);
  await device.close();
  await compile().catch((error) => console.log(error.name));`;

describe("a runtime that cannot be loaded", () => {
  test.each([
    ["in a thread", tryIt],
    ["in a process", inThread(tryIt)],
  ])("%s", { timeout: 60_000 }, (_where, lines) => {
    // Outside of this package there is no runtime, only what else the engine needs.
    const folder = mkdtempSync(path.join(tmpdir(), "blip2-engine-"));
    try {
      cpSync(built, folder, { recursive: true });
      mkdirSync(path.join(folder, "node_modules"));
      symlinkSync(path.join(modules, "protobufjs"), path.join(folder, "node_modules", "protobufjs"));
      const { output } = script(lines, folder);
      const [first, second, closed] = output.split("\n");
      expect(first).toMatch(
        /^InternalError .*Cannot find package 'onnxruntime-node'.* <- Cannot find package/,
      );
      expect(second).toBe(first);
      expect(closed).toBe("UserError");
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

test("a runtime process outlives Ctrl-C, and says what killed it", { timeout: 60_000 }, () => {
  const { status, output } = script(
    inThread(`
      const device = openDevice({ threads: 1 });
      const program = await device.compile({ y: ops.neg(input("x", "float32", [1])) });
      const run = () => program.run({ x: { dtype: "float32", dims: [1], data: Float32Array.of(3) } });
      child.kill("SIGINT");
      child.kill("SIGTERM");
      await new Promise((resolve) => setTimeout(resolve, 300));
      console.log((await run()).y.data[0]);
      child.kill("SIGKILL");
      const awake = setInterval(() => undefined, 1000); // An idle runtime keeps nobody alive.
      await new Promise((resolve) => child.once("exit", resolve));
      clearInterval(awake);
      await run().catch((error) => console.log(error.name, error.message));`),
  );
  expect(output).toBe("-3\nInternalError runtime: the worker has failed: its process was ended by SIGKILL\n");
  expect(status).toBe(0);
});
