import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  accuracies,
  constantAccuracies,
  normalisedAnswer,
  vqaAccuracy,
} from "../../src/metrics/vqa-accuracy.js";

/** So many people with each answer, ten in all. */
const people = (counts: Readonly<Record<string, number>>): string[] =>
  Object.entries(counts).flatMap(([answer, count]) => Array<string>(count).fill(answer));

describe("normalisedAnswer", () => {
  it.each([
    ["Yes", "yes"],
    ["  on\tthe\nTable ", "on table"],
    ["a cat and an owl", "cat and owl"],
    ["two", "2"],
    ["2", "2"],
    ["None", "0"],
    ["zero", "0"],
    ["Ten dogs", "10 dogs"],
    ["eleven", "eleven"],
    ["dont know", "don't know"],
    ["don't know", "don't know"],
    ["couldnt've", "couldn't've"],
    ["its", "its"],
    ["shed", "shed"],
    ["cat?", "cat"],
    ['"top left"', "top left"],
    ["t-shirt", "t shirt"],
    ["no - red", "no red"],
    ["red, white", "red white"],
    ["red,white", "red white"],
    ["1,000", "1000"],
    ["1.5", "1.5"],
    ["st. louis.", "st louis"],
    [".", ""],
    ["the", ""],
  ])("%j is %j", (answer, form) => {
    expect(normalisedAnswer(answer)).toBe(form);
  });

  it("changes nothing more when it is done twice", () => {
    const parts = fc.constantFrom(
      "a",
      "two",
      "dont",
      "red",
      "1,000",
      "1.5",
      "-",
      "?",
      " ",
      ".",
      "The",
      "o'clock",
    );
    fc.assert(
      fc.property(fc.array(parts, { maxLength: 6 }), (chosen) => {
        const once = normalisedAnswer(chosen.join(" "));
        expect(normalisedAnswer(once)).toBe(once);
      }),
    );
  });
});

describe("vqaAccuracy", () => {
  // Of ten, m give the answer: m of them are left with m - 1 others, 10 - m with m.
  it.each([
    ["yes", { yes: 10 }, 1],
    ["no", { yes: 10 }, 0],
    ["yes", { yes: 1, no: 9 }, (9 * (1 / 3)) / 10],
    ["yes", { yes: 2, no: 8 }, (2 * (1 / 3) + 8 * (2 / 3)) / 10],
    ["yes", { yes: 3, no: 7 }, (3 * (2 / 3) + 7 * 1) / 10],
    ["yes", { yes: 4, no: 6 }, 1],
    ["two", { "2": 10 }, 1],
    ["2", { two: 10 }, 1],
    ["The red Cat!", { "red cat": 3, "a red cat": 2, dog: 5 }, 1],
    ["", { yes: 10 }, 0],
  ])("%j among %j is %f", (answer, counts, accuracy) => {
    expect(vqaAccuracy(answer, people(counts as Readonly<Record<string, number>>))).toBeCloseTo(accuracy, 12);
  });

  const word = fc.constantFrom("yes", "no", "two", "2", "a cat", "cat", "dont", "don't");
  const ten = fc.array(word, { minLength: 10, maxLength: 10 });

  it("does not depend on the order of the people", () => {
    fc.assert(
      fc.property(
        word,
        ten.chain((list) =>
          fc.tuple(fc.constant(list), fc.shuffledSubarray(list, { minLength: list.length })),
        ),
        (answer, [list, shuffled]) => {
          expect(vqaAccuracy(answer, shuffled)).toBe(vqaAccuracy(answer, list));
        },
      ),
    );
  });

  it("is what one gets by leaving out each person in turn", () => {
    fc.assert(
      fc.property(word, ten, (answer, list) => {
        const credits = list.map((_, left) => {
          const others = list.filter((__, i) => i !== left);
          const same = others.filter((other) => normalisedAnswer(other) === normalisedAnswer(answer));
          return Math.min(1, same.length / 3);
        });
        const mean = credits.reduce((sum, credit) => sum + credit, 0) / list.length;
        expect(vqaAccuracy(answer, list)).toBeCloseTo(mean, 12);
      }),
    );
  });

  it("never falls when one more person agrees", () => {
    fc.assert(
      fc.property(word, ten, fc.nat(9), (answer, list, i) => {
        expect(vqaAccuracy(answer, list.with(i, answer))).toBeGreaterThanOrEqual(vqaAccuracy(answer, list));
      }),
    );
  });

  it("needs others to hold an answer against", () => {
    expect(() => vqaAccuracy("yes", ["yes"])).toThrow(/at least two people/);
  });
});

describe("the measures of many questions", () => {
  const judged = [
    { type: "yes/no", accuracy: 1, people: people({ yes: 10 }) },
    { type: "yes/no", accuracy: 0, people: people({ no: 10 }) },
    { type: "yes/no", accuracy: 0, people: people({ Yes: 10 }) },
    { type: "count", accuracy: 0.6, people: people({ two: 5, "2": 5 }) },
  ];

  it("are means over all questions and over those of a type", () => {
    expect(accuracies(judged)).toEqual({
      accuracy: 0.4,
      "accuracy: count": 0.6,
      "accuracy: yes/no": 1 / 3,
    });
    expect(Object.keys(accuracies(judged))).toEqual(["accuracy", "accuracy: count", "accuracy: yes/no"]);
  });

  it("include what the best constant answer of each type reaches", () => {
    expect(constantAccuracies(judged)).toEqual({
      "most frequent answer": 3 / 4,
      "most frequent answer: count": 1,
      "most frequent answer: yes/no": 2 / 3,
    });
  });

  it("choose that answer by its accuracy", () => {
    // "b" is the first choice of nobody's ten and still does best over both.
    const split = [
      { type: "t", people: people({ a: 6, b: 4 }) },
      { type: "t", people: people({ c: 6, b: 4 }) },
    ];
    expect(constantAccuracies(split)).toEqual({ "most frequent answer": 1, "most frequent answer: t": 1 });
  });
});
