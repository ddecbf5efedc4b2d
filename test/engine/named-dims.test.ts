/** Dimensions that are known only at run time: one program, several sizes. */
import { afterAll, describe, expect, test } from "vitest";
import {
  addDims,
  gradients,
  input,
  multiplyDims,
  ops,
  subtractDims,
  type Shape,
  type Tensor,
} from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import { elementCount, float32Tensor, type HostTensor } from "../../src/host-tensor.js";
import { numbers, randomTensor } from "./check-op.js";

const device = openDevice({ threads: 1 });
afterAll(() => device.close());

const x = input("x", "float32", ["B", "P", 2]);
const y = input("y", "float32", ["B", "T", 2]);
const both = ops.concat([x, y], 1);
const sizes = [
  { B: 2, P: 3, T: 1 },
  { B: 1, P: 1, T: 4 },
  { B: 3, P: 2, T: 2 },
] as const;

const feedsOf = ({ B, P, T }: (typeof sizes)[number]): Record<string, HostTensor> => ({
  x: randomTensor([B, P, 2], 1),
  y: randomTensor([B, T, 2], 2),
});

/** [b][row][column] of x and y joined along their rows. */
function joined(
  { B, P, T }: (typeof sizes)[number],
  feeds: Readonly<Record<string, HostTensor>>,
): number[][][] {
  const at = (name: string, count: number, b: number, row: number): number[] =>
    [0, 1].map((column) => Number(feeds[name]!.data[(b * count + row) * 2 + column]));
  return Array.from({ length: B }, (_, b) => [
    ...Array.from({ length: P }, (_row, row) => at("x", P, b, row)),
    ...Array.from({ length: T }, (_row, row) => at("y", T, b, row)),
  ]);
}

describe("one program, several sizes", () => {
  const cases: readonly {
    readonly name: string;
    readonly tensor: Tensor;
    readonly shape: Shape;
    readonly expected: (size: (typeof sizes)[number], rows: number[][][]) => number[];
  }[] = [
    {
      name: "concat P+T",
      tensor: both,
      shape: ["B", "P+T", 2],
      expected: (_, rows) => rows.flat(2),
    },
    {
      name: "reshape to two named dimensions",
      tensor: ops.transpose(
        ops.reshape(ops.reshape(both, [multiplyDims("B", "P+T"), 2]), ["B", "P+T", 2]),
        [1, 0, 2],
      ),
      shape: ["P+T", "B", 2],
      expected: (_, rows) => rows[0]!.flatMap((_row, r) => rows.flatMap((b) => b[r]!)),
    },
    {
      name: "slice with a named start and length",
      tensor: ops.slice(both, 1, "P", "T"),
      shape: ["B", "T", 2],
      expected: ({ P }, rows) => rows.flatMap((b) => b.slice(P).flat()),
    },
    {
      name: "slice up to one before the end",
      tensor: ops.slice(both, 1, 0, subtractDims("P+T", 1)),
      shape: ["B", "P+T+-1", 2],
      expected: (_, rows) => rows.flatMap((b) => b.slice(0, -1).flat()),
    },
    {
      name: "pad with named sizes on both sides",
      tensor: ops.pad(x, 1, "T", addDims("T", 1)),
      shape: ["B", "P+2*T+1", 2],
      expected: ({ P, T }, rows) => {
        const zeros = (count: number): number[] => Array<number>(count * 2).fill(0);
        return rows.flatMap((b) => [...zeros(T), ...b.slice(0, P).flat(), ...zeros(T + 1)]);
      },
    },
    {
      name: "expand to named sizes",
      tensor: ops.expand(ops.slice(both, 1, 0, 1), ["B", "P+T", 2]),
      shape: ["B", "P+T", 2],
      expected: (_, rows) => rows.flatMap((b) => b.flatMap(() => b[0]!)),
    },
    {
      name: "range and size",
      tensor: ops.add(ops.cast(ops.range("P+T"), "float32"), ops.sizeOf(multiplyDims("B", "T"))),
      shape: ["P+T"],
      expected: ({ B, T }, rows) => rows[0]!.map((_, i) => i + B * T),
    },
    {
      name: "zeros",
      tensor: ops.add(ops.zeros(["T", "B"]), 1),
      shape: ["T", "B"],
      expected: ({ B, T }) => Array<number>(B * T).fill(1),
    },
    {
      name: "mean over named axes",
      tensor: ops.reduceMean(both),
      shape: [],
      expected: (_, rows) => {
        const flat = rows.flat(2);
        return [flat.reduce((a, b) => a + b, 0) / flat.length];
      },
    },
    {
      name: "gradient of a mean over named axes, through a concat",
      tensor: gradients(ops.reduceMean(ops.mul(both, 6)), [y])[0]!,
      shape: ["B", "T", 2],
      expected: ({ B, P, T }) => Array<number>(B * T * 2).fill(6 / (B * (P + T) * 2)),
    },
    {
      name: "gradient through a slice with a named start",
      tensor: gradients(ops.reduceSum(ops.slice(x, 1, subtractDims("P", 1), 1)), [x])[0]!,
      shape: ["B", "P", 2],
      expected: ({ P }, rows) =>
        rows.flatMap((b) => b.slice(0, P).flatMap((_, row) => (row === P - 1 ? [1, 1] : [0, 0]))),
    },
  ];

  test.each(cases)("$name", async ({ tensor, shape, expected }) => {
    expect(tensor.shape).toEqual(shape);
    // The sum brings every input into the graph: named sizes are read from inputs.
    const program = await device.compile({ out: tensor, sum: ops.reduceSum(both) });
    for (const size of sizes) {
      const feeds = feedsOf(size);
      const { out } = await program.run(feeds);
      const wanted = expected(size, joined(size, feeds));
      expect(elementCount(out!.dims)).toBe(wanted.length);
      for (const [i, value] of numbers(out!).entries()) expect(value).toBeCloseTo(wanted[i]!, 5);
    }
  });

  test("a dimension that no input has is named when the graph is compiled", async () => {
    const lost = ops.expand(input("z", "float32", [1]), ["N"]);
    await expect(device.compile({ lost })).rejects.toThrow("emit: no graph input has the dimension N");
  });

  test("sizes that contradict each other are named when the program runs", async () => {
    const mask = input("mask", "float32", ["B", "P+T", 1]);
    const program = await device.compile({ out: ops.mul(both, mask) });
    const feeds = feedsOf(sizes[0]);
    await expect(program.run({ ...feeds, mask: float32Tensor([1, 1, 1], [1, 3, 1]) })).rejects.toThrow(
      "run: input mask must be float32[B=2, P+T, 1], got float32[1, 3, 1]",
    );
    await expect(program.run({ ...feeds, mask: randomTensor([2, 3, 1], 1) })).rejects.toThrow(
      "run: input mask has 3 where P+T=4 is required",
    );
  });
});
