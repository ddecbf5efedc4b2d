import { expect, test } from "vitest";
import { createOutput } from "../../src/cli/output.js";
import { Captured } from "./captured.js";

function printed(json: boolean, print: (output: ReturnType<typeof createOutput>) => void): string {
  const stdout = new Captured();
  print(createOutput({ json, stdout }));
  return stdout.text;
}

test("a record is one line of JSON, with arrays and integers that JSON knows", () => {
  const record = {
    name: "a\nb",
    ids: BigInt64Array.of(1n, 2n),
    row: Float32Array.of(0.5),
    nan: NaN,
    n: 2n ** 60n,
  };
  expect(printed(true, (output) => output.record(record, "for people"))).toBe(
    '{"name":"a\\nb","ids":[1,2],"row":[0.5],"nan":null,"n":"1152921504606846976"}\n',
  );
});

test("a record is text for people: the one given, or its keys and values", () => {
  expect(printed(false, (output) => output.record({ a: 1 }, "done"))).toBe("done\n");
  expect(printed(false, (output) => output.record({ a: 1, long: { b: [1] }, none: null }))).toBe(
    'a     1\nlong  {"b":[1]}\nnone  -\n',
  );
});

test("a table is aligned for people, and lines of JSON otherwise", () => {
  const rows = [
    { rank: 1, id: "cat.png", score: 0.25 },
    { rank: 10, id: "a.png", score: undefined },
  ];
  expect(printed(false, (output) => output.table(rows))).toBe(
    "rank  id        score\n   1  cat.png  0.2500\n  10  a.png         -\n",
  );
  expect(printed(true, (output) => output.table(rows))).toBe(
    '{"rank":1,"id":"cat.png","score":0.25}\n{"rank":10,"id":"a.png"}\n',
  );
});

test("text that streams is for people only", () => {
  expect(printed(false, (output) => output.text("a cat"))).toBe("a cat");
  expect(printed(true, (output) => output.text("a cat"))).toBe("");
});
