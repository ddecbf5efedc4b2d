/** Training rows of the language model: what they hold, and that they fit. */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/random.js";
import { ignoreIndex } from "../../src/objectives/cross-entropy.js";
import { buildBpeTokenizer } from "../../src/text/build-bpe.js";
import { createTokenizer } from "../../src/text/tokenizer.js";
import { SequenceWriter } from "../../src/evaluation/answers/sequence-writer.js";
import { describedScene as text } from "./described-scene.js";

const files = buildBpeTokenizer([
  text.description,
  ...text.captions,
  ...text.statements,
  ...text.questions.flatMap(({ question, answer }) => [`Question: ${question} Answer:`, answer]),
]);
const tokenizer = createTokenizer(files["tokenizer.json"], files["tokenizer_config.json"]);
const writer = new SequenceWriter(tokenizer);
const plain = { echoShare: 0, captionShare: 1, statementShare: 0, bareShare: 0, typeShares: {} };

const rows = (shares: Partial<typeof plain> & { typeShares?: Record<string, number> }, most = 256) =>
  Array.from({ length: 60 }, (_, i) =>
    writer.sequence(text, new Random("row", i), { ...plain, ...shares }, most),
  );
const written = (row: { readonly ids: readonly number[] }): string => tokenizer.decode([...row.ids]);

describe("a training row", () => {
  it("asks everything and tells a caption, and learns only answers and captions", () => {
    for (const row of rows({})) {
      for (const { question } of text.questions) expect(written(row)).toContain(question);
      expect(written(row)).toContain("a picture of");
      const learnt = row.labels.filter((label) => label !== ignoreIndex);
      expect(learnt.length).toBeGreaterThan(0);
      expect(tokenizer.decode(learnt)).not.toContain("Question");
    }
  });

  it("holds captions and types of question in their shares", () => {
    const without = rows({ captionShare: 0, typeShares: { color: 0 } }).map(written);
    expect(without.some((row) => row.includes("a picture of"))).toBe(false);
    expect(without.some((row) => row.includes("what color"))).toBe(false);
    expect(without.every((row) => row.includes("where is the car"))).toBe(true);
    const some = rows({ typeShares: { color: 0.5 } }).filter((row) => written(row).includes("what color"));
    expect(some.length).toBeGreaterThan(15);
    expect(some.length).toBeLessThan(45);
  });

  it("holds statements in their share, and learns them whole", () => {
    expect(rows({}).some((row) => written(row).includes("of things there is one"))).toBe(false);
    const some = rows({ statementShare: 0.5, captionShare: 0 }).filter((row) =>
      tokenizer
        .decode(row.labels.filter((label) => label !== ignoreIndex))
        .includes("of things there is one"),
    );
    expect(some.length).toBeGreaterThan(15);
    expect(some.length).toBeLessThan(45);
  });

  it("ends where the positions end", () => {
    const [whole] = rows({});
    for (const row of rows({}, whole!.ids.length - 1)) {
      expect(row.ids.length).toBeLessThan(whole!.ids.length);
      expect(row.ids).toHaveLength(row.labels.length);
    }
  });
});
