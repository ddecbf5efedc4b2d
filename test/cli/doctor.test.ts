import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import { inspectModels } from "../../src/cli/doctor/findings.js";
import { probeNativePackage } from "../../src/cli/doctor/native-package.js";
import { doctor } from "../../src/cli/verbs/doctor.js";
import { buildServers } from "../../src/engine/usage-reports.js";
import { blip2 } from "./captured.js";

const { signal } = new AbortController();

describe("blip2 doctor", () => {
  afterEach(() => vi.unstubAllEnvs());

  test("--json is one line with the documented keys, and agrees with the exit code", async () => {
    const { code, stdout, stderr } = await blip2(["doctor", "--json"]);
    expect(stderr).toBe("");
    expect(stdout.trimEnd()).not.toContain("\n");
    const found = JSON.parse(stdout) as Record<string, unknown>;
    expect(Object.keys(found)).toEqual(Object.keys(doctor.jsonKeys));
    expect(found["ok"]).toBe(code === 0);
    expect(found).toMatchObject({
      node: { version: process.versions.node, ok: true },
      cpus: { available: expect.any(Number) },
      onnxruntime: { ok: true, providers: expect.arrayContaining([{ name: "cpu", bundled: true }]) },
      sharp: { ok: true, libraries: { vips: expect.any(String) } },
    });
  });

  test.runIf(process.platform === "linux")("tells whether the runtime reports its use", async () => {
    for (const name of buildServers) vi.stubEnv(name, "");
    for (const [value, isOn] of [
      ["1", false],
      ["0", true],
    ] as const) {
      vi.stubEnv("ORT_DISABLE_TELEMETRY", value);
      const { stdout } = await blip2(["doctor", "--json"]);
      expect(JSON.parse(stdout)).toMatchObject({ usageReports: isOn });
      expect((await blip2(["doctor"])).stdout).toMatch(
        isOn ? /^ok +usage reports +ONNX Runtime reports its use/m : /^ok +usage reports +off/m,
      );
    }
  });

  test("for people, names each part on a line", async () => {
    const { stdout } = await blip2(["doctor"]);
    for (const part of ["node", "cpus", "memory", "onnxruntime", "sharp", "disk"]) {
      expect(stdout).toMatch(new RegExp(`^ok +${part} `, "m"));
    }
  });
});

describe("a native package", () => {
  test("that is not installed", async () => {
    expect(await probeNativePackage("blip2-no-such-package", "{}", signal)).toEqual({
      ok: false,
      error: "the package blip2-no-such-package is not installed",
    });
  });

  test("that throws while it loads, and one that takes its process along", async () => {
    expect(await probeNativePackage("sharp", "library.no.such", signal)).toEqual({
      ok: false,
      error: "the package sharp does not load: Cannot read properties of undefined (reading 'such')",
    });
    expect(await probeNativePackage("sharp", "process.kill(process.pid, 'SIGKILL')", signal)).toEqual({
      ok: false,
      error: "the package sharp does not load: its process ended with SIGKILL",
    });
  });
});

describe("bundled models", () => {
  let folder: string;
  afterEach(() => rmSync(folder, { recursive: true }));

  const put = (name: string, content: string | Uint8Array): void => {
    mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    writeFileSync(path.join(folder, name), content);
  };

  /** A safetensors file with one tensor of four bytes, of which `present` are there. */
  const weights = (present: number): Uint8Array => {
    const header = JSON.stringify({ w: { dtype: "F32", shape: [1], data_offsets: [0, 4] } });
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    return Buffer.concat([length, Buffer.from(header), Buffer.alloc(present)]);
  };

  test("are complete, or it is said what is wrong with them", async () => {
    folder = mkdtempSync(path.join(tmpdir(), "blip2-models-"));
    put("whole/config.json", '{"model_type":"opt"}');
    put("whole/model.safetensors", weights(4));
    put("whole/tokenizer.json", "{}");
    put("mute/config.json", '{"model_type":"opt"}');
    put("mute/model.safetensors", weights(4));
    put("short/config.json", '{"model_type":"clip_vision_model"}');
    put("short/model.safetensors", weights(2));
    put("nameless/model.safetensors", weights(4));
    put("README.md", "no model");
    const found = await inspectModels(folder);
    expect(found.map(({ name, complete }) => [name, complete])).toEqual([
      ["mute", false],
      ["nameless", false],
      ["short", false],
      ["whole", true],
    ]);
    expect(found[0]).toMatchObject({ error: "it lacks tokenizer.json" });
    expect(found[3]).toMatchObject({ type: "opt", bytes: expect.any(Number) });
  });

  test("may be absent", async () => {
    folder = mkdtempSync(path.join(tmpdir(), "blip2-models-"));
    expect(await inspectModels(path.join(folder, "models"))).toEqual([]);
  });
});
