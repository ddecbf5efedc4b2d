/** What README.md says about the repository's layout and verbs is what is there. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { verbs } from "../src/cli/verbs/index.js";

const readme = readFileSync("README.md", "utf8");

/** The part below a heading, up to the next. */
const section = (heading: string): string => readme.split(`\n## ${heading}\n`)[1]!.split("\n## ")[0]!;

describe("README.md", () => {
  const tree = [...section("What is where").matchAll(/^(\S+)\/ +\S/gm)].map(([, path]) => path!);

  it("names every folder of src, and no other", () => {
    const folders = readdirSync("src", { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => `src/${name}`);
    expect(tree.filter((path) => path.startsWith("src/")).sort()).toEqual(folders.sort());
  });

  it("names folders that are there", () => {
    expect(tree.length).toBeGreaterThan(20);
    for (const path of tree) expect(existsSync(path), path).toBe(true);
  });

  it("has a row for every verb", () => {
    const rows = [...section("Use it").matchAll(/^\| `([a-z]+)[^`]*` +\|/gm)].map(([, verb]) => verb!);
    expect(rows.sort()).toEqual(Object.keys(verbs).sort());
  });

  it("and the other documents link to files that are there", () => {
    const documents = readdirSync(".").filter((name) => name.endsWith(".md"));
    const links = documents.flatMap((document) =>
      [...readFileSync(document, "utf8").matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)].map(([, to]) => to!),
    );
    expect(links.length).toBeGreaterThan(10);
    for (const to of links) expect(existsSync(to), to).toBe(true);
  });
});
