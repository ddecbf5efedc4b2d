/** Conversion as the library offers it. What the written folders hold is tested in `convert.test.ts`. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { convertCheckpoint, InterruptedError, UserError } from "../../src/index.js";
import { blip2 } from "../cli/captured.js";

const golden = "test/golden/checkpoints";
const sizes = { visionHeads: 2, qformerHeads: 2 };

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "blip2-convert-"));
});
afterAll(() => rm(root, { recursive: true }));

it("writes the folder that the verb writes, tells how far it is, and what should be known", async () => {
  const [verb, library] = [join(root, "verb"), join(root, "library")];
  const words = ["--vision-heads", "2", "--qformer-heads", "2", "--json"];
  const { code, stdout } = await blip2(["convert", `${golden}/lavis-itm.pth`, verb, ...words]);
  expect(code).toBe(0);
  const steps: (readonly [string, number, number])[] = [];
  const notices: string[] = [];
  const converted = await convertCheckpoint(`${golden}/lavis-itm.pth`, library, {
    ...sizes,
    onProgress: ({ detail, step, total }) => steps.push([detail, step, total]),
    onNotice: (notice) => notices.push(notice),
  });
  const { out: _, ...told } = JSON.parse(stdout) as Record<string, unknown>;
  expect(converted).toEqual(told);
  expect(converted.architecture).toBe("Blip2ForImageTextRetrieval");
  expect(steps.at(-1)).toEqual(["convert", converted.tensors, converted.tensors]);
  expect(notices).toEqual([expect.stringContaining("no tokenizer was given")]);
  expect(await readdir(library)).toEqual(await readdir(verb));
  for (const name of await readdir(verb))
    expect(await readFile(join(library, name)), name).toEqual(await readFile(join(verb, name)));
});

it("stops when it is told to, and leaves nothing behind", async () => {
  const stopping = new AbortController();
  const work = convertCheckpoint(`${golden}/lavis-itm.pth`, join(root, "stopped"), {
    ...sizes,
    signal: stopping.signal,
    onProgress: ({ step }) => {
      if (step === 3) stopping.abort();
    },
  });
  await expect(work).rejects.toThrow(InterruptedError);
  expect((await readdir(root)).filter((name) => name.includes("stopped"))).toEqual([]);
});

it.each<[string, Parameters<typeof convertCheckpoint>, RegExp]>([
  ["no input", ["", "out"], /input must be the path/],
  [
    "an option of another name",
    ["a", "b", { vission: "x" } as object],
    /unknown option vission; did you mean vision/,
  ],
  ["a type that is none", ["a", "b", { dtype: "int8" } as object], /dtype is "int8"/],
  ["a file that is not there", ["/no/such.pth", "out"], /no such file or folder/],
  ["sizes that nobody can tell", [`${golden}/lavis-itm.pth`, "out"], /visionHeads/],
])("refuses %s by name", async (_, [input, output, options], message) => {
  const error: unknown = await convertCheckpoint(input, join(root, output), options).catch(
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  expect((error as Error).message).toMatch(message);
  expect(await readdir(root)).not.toContain(output);
});
