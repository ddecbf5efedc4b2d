import { expect, it } from "vitest";
import { parameterCounts } from "../../bench/experiments/parameters.js";
import { publishedSizes, publishedTextSide } from "../../bench/experiments/published-sizes.js";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { elementCount } from "../../src/host-tensor.js";
import { inRepository } from "../../bench/repository.js";

const counts = (name: string): Record<string, number> =>
  parameterCounts(publishedSizes.find((size) => size.name === name)!.config, publishedTextSide);

it("counts the published parts, which were summed by hand from their shapes", () => {
  const measured = counts("vit-g-opt-2.7b");
  expect(measured).toMatchObject({
    "stage 2: query side of the Q-Former": 105_137_664,
    "stage 2: queries": 24_576,
    "stage 2: language projection": 1_968_640,
    "stage 2: norm after the image encoder": 2816,
    "stage 1: text side of the Q-Former": 56_687_616 + 23_441_664 + 393_216,
    "stage 1: heads of stage 1": 622_651 + 2 * 196_864 + 1538 + 1,
    // With the biases of keys that files of transformers store as zeros.
    "stage 2: image encoder": 985_952_256 - 2816,
  });
  const parts = (stage: string): number =>
    Object.entries(measured).reduce(
      (sum, [name, count]) =>
        name.startsWith(stage) && !/: (all|trainable)$/.test(name) ? sum + count : sum,
      0,
    );
  for (const stage of ["stage 1", "stage 2"]) {
    expect(parts(stage)).toBe(measured[`${stage}: all`]);
    expect(measured[`${stage}: trainable`]).toBe(
      parts(stage) - measured[`${stage}: image encoder`]! - (measured[`${stage}: language model`] ?? 0),
    );
  }
});

it.each(publishedSizes)("$label trains what the paper's table says, rounded", ({ name, paper }) => {
  const measured = counts(name);
  expect(Math.abs(measured["stage 2: trainable"]! / 1e6 - paper.trainable)).toBeLessThan(1);
  expect(Math.abs(measured["stage 2: all"]! / 1e9 / paper.all - 1)).toBeLessThan(0.06);
});

it("counts the bundled model as its file does", async () => {
  const [whole, retrieval] = await Promise.all(
    ["models/scenes-opt", "models/scenes-retrieval"].map((name) => readModelFolder(inRepository(name))),
  );
  const { vocab_size: vocabulary } = retrieval!.config["qformer_config"] as { vocab_size: number };
  const sharedSize = Number(retrieval!.config["image_text_hidden_size"]);
  const measured = parameterCounts(whole!.config, { vocabulary, sharedSize });
  const stored = (folder: typeof whole): number =>
    [...folder!.weights.tensors.values()].reduce((sum, { dims }) => sum + elementCount(dims), 0);
  expect(measured["stage 2: all"]).toBe(stored(whole));
  expect(measured["stage 1: all"]).toBe(stored(retrieval));
});
