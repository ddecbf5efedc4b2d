/** Stage 2 reads its frozen language model where it lies: no weight of it goes through JavaScript's memory. */
import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { watchBuffers } from "../../bench/largest-buffer.js";
import { writeSafetensors } from "../../src/checkpoints/safetensors.js";
import { elementCount, type HostTensor } from "../../src/host-tensor.js";
import { familyOf, languageConfigSchema } from "../../src/models/language/families.js";
import { Parameters } from "../../src/nn/parameters.js";
import type { RunOptions } from "../../src/recipes/run.js";
import { makeTinyWorld, trainBefore, type TinyWorld } from "./tiny-world.js";

let world: TinyWorld;
beforeAll(async () => {
  world = await makeTinyWorld();
  await trainBefore(world, "stage2");
}, 120_000);
afterAll(() => world.remove());

/** The tiny language model with wider layers and float16 weights. */
async function widerModel(): Promise<{ readonly folder: string; readonly largest: number }> {
  const folder = join(world.root, "wider");
  await cp(join(world.root, "language-model", "model"), folder, { recursive: true });
  const file = join(folder, "config.json");
  const before = JSON.parse(await readFile(file, "utf8")) as object;
  const wider = { hidden_size: 512, word_embed_proj_dim: 512, ffn_dim: 2048, num_hidden_layers: 2 };
  const json = { ...before, ...wider, num_attention_heads: 8 };
  await writeFile(file, JSON.stringify(json));
  const config = languageConfigSchema.parse(json);
  const parameters = new Parameters(() => false);
  familyOf(config).build(config, parameters.scope());
  const tensors = new Map<string, HostTensor>();
  let largest = 0;
  for (const [name, dims] of parameters.shapes) {
    // 0x2000 is 2^-7.
    tensors.set(name, { dtype: "float16", dims, data: new Uint16Array(elementCount(dims)).fill(0x2000) });
    largest = Math.max(largest, 2 * elementCount(dims));
  }
  await writeSafetensors(join(folder, "model.safetensors"), tensors);
  return { folder, largest };
}

it("training makes no buffer as large as the largest weight; writing the model, none larger", async () => {
  const { folder, largest } = await widerModel();
  expect(largest).toBe(2 * 512 * 2048);
  const buffers = watchBuffers();
  let trained = 0;
  try {
    const onProgress: RunOptions["onProgress"] = ({ detail }) => {
      if (detail.startsWith("loss")) trained = buffers.largest;
    };
    await world.train("stage2", "in place", { languageModel: folder, steps: 2 }, { onProgress });
  } finally {
    buffers.stop();
  }
  expect(trained).toBeGreaterThan(10_000);
  expect(trained).toBeLessThan(largest / 2);
  // Tensor by tensor.
  expect(buffers.largest).toBe(largest);
});
