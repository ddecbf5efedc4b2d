import { describe, expect, it } from "vitest";
import { blip2 } from "../cli/captured.js";

const picture = "samples/test-1.png";
const texts = ["a small red star on grass", "two blue cats in snow"];

describe("blip2 match", () => {
  it("prints a line for each text, in their order", async () => {
    const { code, stdout, stderr } = await blip2(["match", picture, ...texts, "--json"]);
    expect([code, stderr]).toEqual([0, ""]);
    const lines = stdout.trim().split("\n");
    const found = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(found.map(({ image, text }) => [image, text])).toEqual(texts.map((text) => [picture, text]));
    for (const line of found) {
      expect(Object.keys(line)).toEqual(["image", "text", "itc", "itmLogit", "itmProbability"]);
      expect(line["itmProbability"]).toBeTypeOf("number");
    }
  });

  it("reads well", async () => {
    const { stdout } = await blip2(["match", picture, texts[0]!, "--max-text-length", "5"]);
    expect(stdout).toMatch(
      /^ *\d+\.\d %  logit -?\d+\.\d{3}  cosine -?\d\.\d{3}  a small red star on grass\n$/,
    );
  });

  it.each([
    [["match", picture], 2, "TEXT is required"],
    [["match", "none.png", "a"], 1, "none.png: this picture does not exist"],
    [["match", picture, "a", "--model", "/no/such"], 1, "/no/such: this folder does not exist"],
    [["match", picture, "a", "--model", "models/scenes-opt"], 1, "use_qformer_text_input is false"],
    [
      ["match", picture, "a", "--max-text-length", "2"],
      2,
      "--max-text-length must be an integer of at least 3",
    ],
  ])("%j ends with a sentence", async (words, code, message) => {
    const found = await blip2(words);
    expect([found.code, found.stdout]).toEqual([code, ""]);
    expect(found.stderr).toContain(message);
  });

  it("can be interrupted", async () => {
    const found = await blip2(["match", picture, "a"], { signal: AbortSignal.abort() });
    expect([found.code, found.stdout]).toEqual([130, ""]);
  });
});
