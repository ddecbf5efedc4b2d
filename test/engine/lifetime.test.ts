/** Opening and closing devices: nothing is lost, nothing leaks, nothing hangs. */
import { beforeAll, describe, expect, test } from "vitest";
import { type Device, input, ops, type Program } from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import { float32Tensor } from "../../src/host-tensor.js";
import { build, script } from "./built-engine.js";
import { numbers, randomTensor } from "./check-op.js";

const x = input("x", "float32", [2]);
const feeds = { x: float32Tensor([1, 2], [2]) };
const compile = (device: Device): Promise<Program> => device.compile({ y: ops.neg(x) });

describe("closing", () => {
  test("waits for what was requested before", async () => {
    const device = openDevice({ threads: 1 });
    const big = input("big", "float32", [512, 512]);
    const program = await device.compile({ y: ops.reduceSum(ops.matmul(ops.matmul(big, big), big)) });
    const running = Array.from({ length: 5 }, (_, i) => program.run({ big: randomTensor([512, 512], i) }));
    const closing = device.close();
    expect(await Promise.all(running)).toHaveLength(5);
    await closing;
  });

  test("refuses later requests, and may be repeated", async () => {
    const device = openDevice({ threads: 1 });
    const program = await compile(device);
    await Promise.all([device.close(), device.close()]);
    await device.close();
    await expect(program.run(feeds)).rejects.toThrow("this model has been closed");
    await expect(compile(device)).rejects.toThrow("this model has been closed");
    await expect(device.read(["x"])).rejects.toThrow("this model has been closed");
  });

  test("of a device that never did anything", async () => {
    await openDevice({ threads: 1 }).close();
  });

  test("by leaving the scope", async () => {
    let program: Program;
    {
      await using device = openDevice({ threads: 1 });
      program = await compile(device);
    }
    await expect(program.run(feeds)).rejects.toThrow("this model has been closed");
  });
});

test("several devices at once keep to themselves", async () => {
  const devices = Array.from({ length: 3 }, () => openDevice({ threads: 1 }));
  const programs = await Promise.all(
    devices.map(async (device, i) => {
      await device.put({ state: float32Tensor([i], []) });
      const state = input("state", "float32", []);
      return device.compile({ y: ops.add(x, state) }, { residentInputs: { state: "state" } });
    }),
  );
  for (let round = 0; round < 5; round++) {
    const replies = await Promise.all(programs.map((program) => program.run(feeds)));
    expect(replies.map(({ y }) => numbers(y!))).toEqual([0, 1, 2].map((i) => [1 + i, 2 + i]));
  }
  await Promise.all(devices.map((device) => device.close()));
});

describe("the process", () => {
  beforeAll(build);

  test("ends by itself, with a device left open and idle", () => {
    const { status, output } = script(`
      const device = openDevice({ threads: 1 });
      const program = await device.compile({ y: ops.neg(input("x", "float32", [1])) });
      await program.run({ x: { dtype: "float32", dims: [1], data: Float32Array.of(1) } });
      console.log("done");
    `);
    expect(output).toBe("done\n");
    expect(status).toBe(0);
  });

  test("waits for a run under way that nobody awaits", () => {
    const { status, output } = script(`
      const device = openDevice({ threads: 1 });
      void device.compile({ y: ops.neg(input("x", "float32", [1])) }).then(async (program) => {
        const { y } = await program.run({ x: { dtype: "float32", dims: [1], data: Float32Array.of(4) } });
        console.log(y.data[0]);
      });
    `);
    expect(output).toBe("-4\n");
    expect(status).toBe(0);
  });

  test("holds what a program leaves in reused memory once", () => {
    const { status, output } = script(`
      const device = openDevice({ threads: 1 });
      const dims = [4096, 4096];
      const slots = { residentInputs: { x: "x" }, residentOutputs: { y: "y" } };
      const program = await device.compile(
        { y: ops.neg(input("x", "float32", dims)) },
        { ...slots, reuseResidents: true },
      );
      await device.put({ x: { dtype: "float32", dims, data: new Float32Array(4096 ** 2).fill(1) } }, { handOver: true });
      const peak = () => process.resourceUsage().maxRSS / 2 ** 10;
      const before = peak();
      for (let i = 0; i < 4; i++) await program.run({});
      console.log(Math.round(peak() - before));
    `);
    expect(status, output).toBe(0);
    // 64 MiB; a second copy would make it 128.
    expect(Number(output)).toBeGreaterThan(50);
    expect(Number(output)).toBeLessThan(96);
  });

  test("does not grow over 100 devices", () => {
    const { status, output } = script(`
      const data = new Float32Array(250_000).fill(1);
      const grown = [];
      for (let i = 0; i < 100; i++) {
        const device = openDevice({ threads: 2 });
        const x = input("x", "float32", [500, 500]);
        const program = await device.compile({ y: ops.reduceSum(ops.matmul(x, x)) });
        await device.put({ state: { dtype: "float32", dims: [500, 500], data } });
        await program.run({ x: { dtype: "float32", dims: [500, 500], data } });
        await device.close();
        globalThis.gc();
        grown.push(process.memoryUsage.rss() / 2 ** 20);
      }
      console.log(JSON.stringify([grown[19], grown[99]].map(Math.round)));
    `);
    expect(status, output).toBe(0);
    const [early, late] = JSON.parse(output) as [number, number];
    expect(late - early).toBeLessThan(40);
  });
});
