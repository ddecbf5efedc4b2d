import { afterAll, describe, expect, it } from "vitest";
import { input } from "../../src/engine/index.js";
import { float32Tensor, type HostTensor } from "../../src/host-tensor.js";
import { attention, mergeHeads, splitHeads } from "../../src/nn/attention.js";
import { paddingMask } from "../../src/nn/attention-masks.js";
import { expectClose } from "../golden-case.js";
import { evaluate, testDevice } from "./evaluate.js";

const device = testDevice();
afterAll(() => device.close());

const wave = (dims: readonly number[], phase: number): HostTensor =>
  float32Tensor(
    Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => 2 * Math.sin(phase + 1.7 * i)),
    dims,
  );

const [B, T, S, H, K] = [2, 3, 4, 2, 5];

/** Attention by loops: one score row per batch entry, head and position. */
function byLoops(
  query: HostTensor,
  key: HostTensor,
  value: HostTensor,
  seen: readonly number[][],
  scale: number,
): HostTensor {
  const out = new Float32Array(B * T * H * K);
  const at = (x: HostTensor, length: number, b: number, h: number, row: number, k: number) =>
    Number(x.data[((b * H + h) * length + row) * K + k]);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let t = 0; t < T; t++) {
        const weights = Array.from({ length: S }, (_, s) => {
          let score = 0;
          for (let k = 0; k < K; k++) score += at(query, T, b, h, t, k) * at(key, S, b, h, s, k);
          return seen[b]![s] === 1 ? Math.exp(score * scale) : 0;
        });
        const sum = weights.reduce((x, y) => x + y, 0);
        for (let k = 0; k < K; k++) {
          out[(b * T + t) * H * K + h * K + k] = weights.reduce(
            (x, w, s) => x + (w / sum) * at(value, S, b, h, s, k),
            0,
          );
        }
      }
    }
  }
  return float32Tensor(out, [B, T, H * K]);
}

describe("attention", () => {
  const query = input("query", "float32", [B, H, "T", K]);
  const key = input("key", "float32", [B, H, "S", K]);
  const value = input("value", "float32", [B, H, "S", K]);
  const feeds = { query: wave([B, H, T, K], 0), key: wave([B, H, S, K], 1), value: wave([B, H, S, K], 2) };
  const all = [
    [1, 1, 1, 1],
    [1, 1, 1, 1],
  ];

  it("is a softmax of scaled products, heads side by side", async () => {
    const { found } = await evaluate(device, { found: attention(query, { key, value }) }, feeds);
    expectClose("attention", found, byLoops(feeds.query, feeds.key, feeds.value, all, 1 / Math.sqrt(K)), {
      within: 1e-5,
    });
  });

  it("takes a scale and a mask", async () => {
    const mask = input("mask", "int64", [B, "S"]);
    const seen = [
      [1, 0, 1, 1],
      [0, 0, 1, 1],
    ];
    const built = attention(query, { key, value }, { scale: 0.3, mask: paddingMask(mask) });
    const columns: HostTensor = {
      dtype: "int64",
      dims: [B, S],
      data: BigInt64Array.from(seen.flat(), BigInt),
    };
    const { found } = await evaluate(device, { found: built }, { ...feeds, mask: columns });
    expectClose("masked", found, byLoops(feeds.query, feeds.key, feeds.value, seen, 0.3), { within: 1e-5 });
  });

  it("splits heads and merges them again", async () => {
    const x = input("x", "float32", ["B", "T", 6]);
    const value = wave([2, 4, 6], 3);
    const split = splitHeads(x, 3);
    expect(split.shape).toEqual(["B", 3, "T", 2]);
    const { same, heads } = await evaluate(device, { same: mergeHeads(split), heads: split }, { x: value });
    expect(same!.data).toEqual(value.data);
    // Head 1 of the first position holds columns 2 and 3.
    expect(heads!.data.slice(4 * 2, 4 * 2 + 2)).toEqual(value.data.slice(2, 4));
  });
});
