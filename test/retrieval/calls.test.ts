/** How calls of a retriever end: at closing, and where a run fails. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { UserError } from "../../src/errors.js";
import { Blip2Retriever } from "../../src/index.js";
import { RetrievalRunner } from "../../src/retrieval/retrieval-runner.js";
import { readGoldenCase } from "../golden-case.js";
import { temporaryFolder } from "../generation/tiny-model.js";
import { testDevice } from "../nn/evaluate.js";
import { writeRetrievalModel, type RetrievalGolden } from "./retrieval-model.js";

let root: string;
let folder: string;
let retriever: Blip2Retriever;
const image = { data: new Uint8Array(16 * 16 * 3).fill(90), width: 16, height: 16, channels: 3 } as const;

beforeAll(async () => {
  root = await temporaryFolder();
  const golden = await readGoldenCase<RetrievalGolden>("retrieval", "retrieval-4");
  folder = await writeRetrievalModel(join(root, "model"), golden);
  retriever = await Blip2Retriever.load(folder, { threads: 1 });
});
afterAll(async () => {
  await retriever.close();
  await rm(root, { recursive: true });
});

const refusal = async (work: Promise<unknown>): Promise<string> => {
  const error: unknown = await work.then(
    () => undefined,
    (failed: unknown) => failed,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).message;
};

describe("the end of a call", () => {
  it("closing lets calls under way finish, and refuses later ones as a caller's mistake", async () => {
    const model = await Blip2Retriever.load(folder, { threads: 1 });
    const under = [
      model.scoreTexts(image, ["w2 w5", "w3"]),
      model.embedImages([image, image]),
      model.attention(image),
    ] as const;
    const late = model.close();
    expect(await refusal(model.score(image, "w2"))).toMatch(/this model has been closed; load it again/);
    expect((await under[0]).map(({ itc }) => Number.isFinite(itc))).toEqual([true, true]);
    expect(await under[1]).toHaveLength(2);
    await under[2];
    await late;
    await model.close();
    for (const work of [
      model.scoreTexts(image, ["w2"]),
      model.scorePairs([{ image, text: "w2" }]),
      model.rankTexts(image, ["w2"]),
      model.encodeImages([image]),
      model.embedImage(image),
      model.embedImages([image]),
      model.embedText("w2"),
      model.embedTexts(["w2"]),
      model.attention(image),
      model.matchingAttention(image, "w2"),
      model.forward({ pixelValues: { data: [], dims: [0] }, inputIds: { data: [], dims: [0] } }),
    ])
      expect(await refusal(work)).toMatch(/this model has been closed/);
  });

  it("a run that fails says why, also where its slots cannot be freed any more", async () => {
    const device = testDevice();
    const golden = await readGoldenCase<RetrievalGolden>("retrieval", "retrieval-4");
    const { readModelFolder } = await import("../../src/checkpoints/model-folder.js");
    const { retrievalConfig } = await import("../../src/models/blip-2-retrieval.js");
    const { weights } = await readModelFolder(folder);
    const runner = await RetrievalRunner.load(device, retrievalConfig(golden.config), weights, {
      precision: "fp32",
    });
    const drop = vi.spyOn(device, "drop").mockRejectedValue(new Error("the clean-up failed"));
    const signal = AbortSignal.abort();
    await expect(runner.look(golden.inputs["pixel_values"]!, { signal })).rejects.toThrow("stopped");
    // What was found is not lost either.
    const { hidden } = await runner.look(golden.inputs["pixel_values"]!);
    expect(hidden.dims[0]).toBe(golden.inputs["pixel_values"]!.dims[0]);
    expect(drop).toHaveBeenCalled();
    drop.mockRestore();
    await device.close();
  });
});
