/** Kinds of files that few programs write, against transformers' `load_image` with Pillow 13 (reference/picture_kinds.py). */
import { readFileSync } from "node:fs";
import { inflateSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import { loadImage } from "../../src/images/load-image.js";

interface Answer {
  readonly file?: string;
  readonly refused?: true;
  readonly width: number;
  readonly height: number;
  /** Base64 of the packed values. */
  readonly rgb: string;
}

const golden = (folder: string): Record<string, Answer> =>
  (
    JSON.parse(readFileSync(`test/golden/${folder}/golden.json`, "utf8")) as {
      files: Record<string, Answer>;
    }
  ).files;

/** Which of those that Pillow reads are refused here, and how. */
const refusedHere: readonly (readonly [RegExp, RegExp])[] = [
  [/^lab-/, /TIFF of CIELab is not read/],
  // Pillow swaps their bytes twice, and reads noise.
  [
    /^float-high-(deflate|packbits)/,
    /TIFF of float grey with 32 bits, high byte first and compressed, is not read/,
  ],
  [
    /^signed-(16|32)-high-(deflate|packbits)/,
    /TIFF of signed grey .* high byte first and compressed, is not read/,
  ],
];

async function compare(name: string, source: string | Uint8Array, expected: Answer): Promise<void> {
  const refusal = refusedHere.find(([names]) => names.test(name))?.[1];
  if (expected.refused === true || refusal !== undefined) {
    const error: unknown = await loadImage(source).then(
      () => "was accepted",
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(UserError);
    if (refusal !== undefined) expect((error as Error).message).toMatch(refusal);
    return;
  }
  const { width, height, data } = await loadImage(source);
  expect([width, height]).toEqual([expected.width, expected.height]);
  const values = inflateSync(Buffer.from(expected.rgb, "base64"));
  // Whole rows at once: a comparison of single values takes long.
  expect(Buffer.compare(Buffer.from(data), values), `${name}: ${[...data.subarray(0, 12)]}`).toBe(0);
}

describe("equal to Pillow, or refused", () => {
  const kinds = golden("picture-kinds");
  it.each(Object.keys(kinds))("%s", async (name) => {
    await compare(name, Buffer.from(kinds[name]!.file!, "base64"), kinds[name]!);
  });

  const cases = golden("picture-cases");
  it.each(Object.keys(cases))("case %s", async (name) => {
    await compare(name, `test/golden/picture-cases/${name}`, cases[name]!);
  });

  it("where what is refused is also listed", () => {
    const listed = Object.keys(kinds).filter((name) => refusedHere.some(([names]) => names.test(name)));
    expect(listed).toHaveLength(12);
    expect(listed.filter((name) => kinds[name]!.refused === true)).toEqual([]);
  });
});
