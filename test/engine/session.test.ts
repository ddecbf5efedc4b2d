/** Sessions: what a caller may rely on when programs run in the worker. */
import { afterAll, describe, expect, test } from "vitest";
import { frozen, gradients, input, ops, parameter } from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import { InterruptedError, UserError } from "../../src/errors.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { numbers, randomTensor } from "./check-op.js";

const device = openDevice({ threads: 2 });
afterAll(() => device.close());

const vector = (...values: number[]): HostTensor => float32Tensor(values, [values.length]);

describe("running", () => {
  test("the caller's thread stays free during a heavy product", async () => {
    const a = input("a", "float32", [1536, 1536]);
    let y = a;
    for (let i = 0; i < 12; i++) y = ops.matmul(y, a, { alpha: 1 / 1536 });
    const program = await device.compile({ sum: ops.reduceSum(y) });
    const feeds = { a: randomTensor([1536, 1536], 1) };
    await program.run(feeds);

    const window = async (): Promise<number[]> => {
      const gaps: number[] = [];
      let last = performance.now();
      const timer = setInterval(() => {
        const now = performance.now();
        gaps.push(now - last);
        last = now;
      }, 5);
      const started = performance.now();
      while (performance.now() - started < 1000) await program.run(feeds);
      clearInterval(timer);
      return gaps.sort((x, y) => x - y);
    };
    // Other work on the machine can hold a timer back too; of three windows one must be clean.
    const p99: number[] = [];
    for (let i = 0; i < 3 && !p99.some((gap) => gap < 25); i++) {
      const gaps = await window();
      expect(gaps.length).toBeGreaterThan(20);
      p99.push(gaps[Math.floor(gaps.length * 0.99)]!);
    }
    expect(Math.min(...p99)).toBeLessThan(25);
  });

  test("element types cross the border both ways", async () => {
    const x = input("x", "float32", [2]);
    const program = await device.compile({
      positive: ops.less(ops.zeros([2]), x),
      whole: ops.cast(x, "int64"),
      small: ops.cast(x, "int32"),
      bytes: ops.cast(x, "uint8"),
      half: ops.cast(x, "float16"),
      same: x,
    });
    const found = await program.run({ x: vector(0, 2) });
    expect(found).toMatchObject({
      positive: { dtype: "bool", data: Uint8Array.of(0, 1) },
      whole: { dtype: "int64", data: BigInt64Array.of(0n, 2n) },
      small: { dtype: "int32", data: Int32Array.of(0, 2) },
      bytes: { dtype: "uint8", data: Uint8Array.of(0, 2) },
      half: { dtype: "float16", data: Uint16Array.of(0, 0x4000) },
      same: { dtype: "float32", data: Float32Array.of(0, 2) },
    });
  });

  test("a bool can be fed, and a view of a larger buffer", async () => {
    const mask = input("mask", "bool", [3]);
    const program = await device.compile({ y: ops.where(mask, input("x", "float32", [3]), -1) });
    const x = Float32Array.of(9, 9, 1, 2, 3, 9).subarray(2, 5);
    const { y } = await program.run({
      mask: { dtype: "bool", dims: [3], data: Uint8Array.of(1, 0, 1) },
      x: { dtype: "float32", dims: [3], data: x },
    });
    expect(numbers(y!)).toEqual([1, -1, 3]);
    expect(x).toHaveLength(3);
  });

  test("several outputs may be one tensor, a constant or an input", async () => {
    const x = input("x", "float32", [2]);
    const y = ops.neg(x);
    const program = await device.compile({
      first: y,
      second: y,
      third: ops.stopGradient(y),
      x2: x,
      c: ops.zeros([1]),
    });
    const found = await program.run({ x: vector(1, 2) });
    for (const name of ["first", "second", "third"]) expect(numbers(found[name]!)).toEqual([-1, -2]);
    expect(numbers(found.x2!)).toEqual([1, 2]);
    expect(numbers(found.c!)).toEqual([0]);
  });

  test("inputs may have any name, also one like those of inner values", async () => {
    const named = ["t0", "t1", "c0", "%", "Add_0"].map((name) => input(name, "float32", [1]));
    const program = await device.compile({
      c1: ops.mul(
        named.reduce((a, b) => ops.add(a, b)),
        2,
      ),
    });
    const feeds = Object.fromEntries(named.map((_, i) => [["t0", "t1", "c0", "%", "Add_0"][i]!, vector(i)]));
    expect(numbers((await program.run(feeds)).c1!)).toEqual([20]);
  });

  test("a signal that is aborted already", async () => {
    const program = await device.compile({ y: ops.neg(input("x", "float32", [1])) });
    const run = program.run({ x: vector(1) }, { signal: AbortSignal.abort() });
    await expect(run).rejects.toThrow(InterruptedError);
  });

  test("a released program", async () => {
    const program = await device.compile({ y: ops.neg(input("x", "float32", [1])) });
    await program.release();
    await expect(program.run({ x: vector(1) })).rejects.toThrow("runtime: this program has been released");
  });
});

describe("mistakes are named, all of them", () => {
  const x = input("x", "float32", ["B", 3]);
  const ids = input("ids", "int64", ["B"]);
  const w = parameter("w", [3]);

  test("feeds", async () => {
    const program = await device.compile({
      y: ops.add(ops.reduceSum(ops.mul(x, w), [1]), ops.cast(ids, "float32")),
    });
    await expect(program.run({ y: vector(1), z: vector(1), x: vector(1) })).rejects.toThrow(
      "run: the graph has no input called y; the graph has no input called z; " +
        "input x must be float32[B, 3], got float32[1]; input w was not fed; input ids was not fed",
    );
    const feeds = { x: randomTensor([2, 3], 1), w: vector(1, 2, 3) };
    await expect(program.run({ ...feeds, ids: vector(1, 2) })).rejects.toThrow(
      "run: input ids must be int64[B=2], got float32[2]",
    );
    await expect(program.run({ ...feeds, ids: int64Tensor([1], [1]) })).rejects.toThrow(
      "run: input ids must be int64[B=2], got int64[1]",
    );
    const short = { dtype: "int64", dims: [2], data: BigInt64Array.of(1n) } as const;
    await expect(program.run({ ...feeds, ids: short })).rejects.toThrow(
      "run: input ids has 1 values for [2]",
    );
  });

  test("frozen weights", async () => {
    const y = ["a", "b", "c"].map((name) => frozen(name, [2])).reduce((a, b) => ops.add(a, b));
    const weights = new Map([
      ["a", vector(1, 2)],
      ["b", vector(1, 2, 3)],
    ]);
    const compiling = device.compile({ y }, { weights });
    await expect(compiling).rejects.toThrow(UserError);
    await expect(compiling).rejects.toThrow(
      "frozen weights do not fit the model: b must be [2], is [3]; c is missing",
    );
  });

  test("two inputs of one name, an output with the name of an input", async () => {
    const twins = ops.add(input("x", "float32", [1]), input("x", "float32", [1]));
    await expect(device.compile({ y: twins })).rejects.toThrow("two graph inputs or weights are called x");
    await expect(device.compile({ w: ops.neg(w) })).rejects.toThrow(
      "output w has the name of an input or weight",
    );
  });

  test("slots", async () => {
    const y = ops.neg(w);
    await expect(device.compile({ y }, { residentOutputs: { z: "slot" } })).rejects.toThrow(
      "compile: the graph has no output called z",
    );
    const program = await device.compile({ y }, { residentInputs: { w: "never put" } });
    await expect(program.run({})).rejects.toThrow("runtime: no resident tensor is called never put");
    await expect(program.run({}, { residentOutputs: { z: "slot" } })).rejects.toThrow(
      "run: the graph has no output called z",
    );
    await expect(device.read(["never put"])).rejects.toThrow(
      "runtime: no resident tensor is called never put",
    );
  });
});

describe("frozen weights", () => {
  test("are widened from half precision", async () => {
    const y = ops.add(frozen("half", [2]), frozen("brain", [2]));
    const weights = new Map<string, HostTensor>([
      ["half", { dtype: "float16", dims: [2], data: Uint16Array.of(0x3c00, 0xc100) }],
      ["brain", { dtype: "bfloat16", dims: [2], data: Uint16Array.of(0x3f80, 0x4049) }],
    ]);
    const program = await device.compile({ y, copy: frozen("half", [2]) }, { weights });
    const found = await program.run({});
    expect(numbers(found.y!)).toEqual([2, 0.640625]);
    expect(numbers(found.copy!)).toEqual([1, -2.5]);
  });

  test("may be used twice under one name", async () => {
    const weights = new Map([["w", vector(3)]]);
    const program = await device.compile({ y: ops.mul(frozen("w", [1]), frozen("w", [1])) }, { weights });
    expect(numbers((await program.run({})).y!)).toEqual([9]);
  });
});

describe("resident tensors", () => {
  test("put, read, replace, drop", async () => {
    await device.put({ a: vector(1, 2), b: vector(3) });
    const copy = (await device.read(["a", "b"])).a!;
    (copy.data as Float32Array)[0] = 100;
    expect(numbers((await device.read(["a"])).a!)).toEqual([1, 2]);
    await device.put({ a: vector(5) });
    expect((await device.read(["a"])).a).toMatchObject({ dims: [1], data: Float32Array.of(5) });
    await device.drop(["a"]);
    await expect(device.read(["a"])).rejects.toThrow("no resident tensor is called a");
    expect(numbers((await device.read(["b"])).b!)).toEqual([3]);
  });

  test("state is carried from an output to the next run's input", async () => {
    const state = input("state", "float32", [2]);
    const program = await device.compile(
      { next: ops.add(ops.mul(state, 2), input("x", "float32", [2])), seen: ops.reduceSum(state) },
      {
        residentInputs: { state: "state", unusedInThisGraph: "elsewhere" },
        residentOutputs: { next: "state" },
      },
    );
    await device.put({ state: vector(1, 1) });
    const seen: number[] = [];
    for (let step = 0; step < 4; step++) {
      const reply = await program.run({ x: vector(1, 0) });
      expect(Object.keys(reply)).toEqual(["seen"]);
      seen.push(numbers(reply.seen!)[0]!);
    }
    expect(seen).toEqual([2, 5, 11, 23]);
    expect(numbers((await device.read(["state"])).state!)).toEqual([31, 16]);
  });

  test("a run may name other slots, and a feed goes before a slot", async () => {
    const state = input("state", "float32", [1]);
    const program = await device.compile(
      { next: ops.add(state, 1), twice: ops.mul(state, 2) },
      { residentInputs: { state: "one" }, residentOutputs: { next: "one" } },
    );
    await device.put({ one: vector(1), two: vector(20) });
    const other = { residentInputs: { state: "two" }, residentOutputs: { next: "two", twice: "doubled" } };
    expect(await program.run({}, other)).toEqual({});
    const values = await device.read(["one", "two", "doubled"]);
    expect([values.one, values.two, values.doubled].map((value) => numbers(value!)[0])).toEqual([1, 21, 40]);
    expect(numbers((await program.run({ state: vector(7) })).twice!)).toEqual([14]);
    expect(numbers((await device.read(["one"])).one!)).toEqual([8]);
  });

  test("an update in place equals a fresh one", async () => {
    // Large enough for the runtime to split each op over its threads.
    const dims = [512, 512] as const;
    const names = ["w", "m", "v"] as const;
    const build = () => {
      const [w, m, v] = names.map((name) => parameter(name, dims));
      const g = ops.sub(ops.mul(w!, 0.5), input("target", "float32", dims));
      const step = input("step", "float32", []);
      const m1 = ops.add(ops.mul(m!, 0.9), ops.mul(g, 0.1));
      const v1 = ops.add(ops.mul(v!, 0.999), ops.mul(ops.mul(g, g), 0.001));
      const update = ops.div(m1, ops.add(ops.sqrt(v1), 1e-8));
      const w1 = ops.sub(ops.mul(w!, 0.9999), ops.mul(update, step));
      return { w1, m1, v1, norm: ops.sqrt(ops.reduceSum(ops.mul(g, g))) };
    };
    const programOf = (prefix: string, reuseResidents: boolean) =>
      device.compile(build(), {
        residentInputs: Object.fromEntries(names.map((name) => [name, prefix + name])),
        residentOutputs: Object.fromEntries(names.map((name) => [`${name}1`, prefix + name])),
        reuseResidents,
      });
    const [fresh, reused] = [await programOf("fresh.", false), await programOf("reused.", true)];
    for (const prefix of ["fresh.", "reused."]) {
      const zero = float32Tensor(new Float32Array(512 * 512), dims);
      await device.put({ [`${prefix}w`]: randomTensor(dims, 3), [`${prefix}m`]: zero, [`${prefix}v`]: zero });
    }
    for (let step = 0; step < 20; step++) {
      const feeds = { target: randomTensor(dims, 100 + step), step: float32Tensor([0.01], []) };
      expect(await reused.run(feeds)).toEqual(await fresh.run(feeds));
    }
    for (const name of names) {
      const values = await device.read([`fresh.${name}`, `reused.${name}`]);
      expect(values[`reused.${name}`]).toEqual(values[`fresh.${name}`]);
    }
  });

  test("gradients may stay, and be read back later", async () => {
    const w = parameter("w", [2]);
    const loss = ops.reduceSum(ops.mul(w, w));
    const program = await device.compile(
      { loss, gw: gradients(loss, [w])[0]! },
      { residentInputs: { w: "weight" }, residentOutputs: { gw: "gradient" }, reuseResidents: true },
    );
    for (const values of [
      [1, 2],
      [3, 4],
    ] as const) {
      await device.put({ weight: vector(...values) });
      await program.run({});
      expect(numbers((await device.read(["gradient"])).gradient!)).toEqual(values.map((v) => 2 * v));
    }
  });

  test("a run that fails says why, also where residents are reused", async () => {
    const table = parameter("table", [3, 2]);
    const rows = ops.gatherRows(table, input("ids", "int64", [2]));
    const sum = ops.reduceSum(rows);
    const program = await device.compile(
      { sum, twice: ops.mul(rows, 2) },
      { residentInputs: { table: "rows" }, residentOutputs: { twice: "twice" }, reuseResidents: true },
    );
    await device.put({ rows: float32Tensor([1, 2, 3, 4, 5, 6], [3, 2]) });
    await expect(program.run({ ids: int64Tensor([0, 9], [2]) })).rejects.toThrow(
      /runtime: .*(range|bounds)/s,
    );
    expect(numbers((await program.run({ ids: int64Tensor([2, 0], [2]) })).sum!)).toEqual([14]);
    expect(numbers((await device.read(["twice"])).twice!)).toEqual([10, 12, 2, 4]);
  });

  test("outputs of named dimensions may stand beside reused residents", async () => {
    const w = parameter("w", [2]);
    const rows = ops.mul(input("x", "float32", ["N", 2]), w);
    const program = await device.compile(
      { rows, sum: ops.reduceSum(rows, [0]) },
      { residentInputs: { w: "factor" }, residentOutputs: { sum: "sum" }, reuseResidents: true },
    );
    await device.put({ factor: vector(2, 3) });
    for (const count of [1, 3]) {
      const x = float32Tensor(new Float32Array(2 * count).fill(1), [count, 2]);
      const { rows: made, sum } = await program.run({ x });
      expect([made!.dims, sum]).toEqual([[count, 2], undefined]);
      expect(numbers((await device.read(["sum"])).sum!)).toEqual([2 * count, 3 * count]);
    }
  });

  test("takes the caller's memory when it is handed over, and copies it otherwise", async () => {
    const [kept, given] = [vector(1, 2), vector(3, 4)];
    await device.put({ kept });
    await device.put({ given }, { handOver: true });
    expect(numbers(kept)).toEqual([1, 2]);
    expect(given.data.byteLength).toBe(0);
    const values = await device.read(["kept", "given"]);
    expect([numbers(values["kept"]!), numbers(values["given"]!)]).toEqual([
      [1, 2],
      [3, 4],
    ]);
  });
});
