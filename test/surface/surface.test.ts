/**
 * What callers rely on stands in two files beside this: the library's exports with their types, and the verbs with their options. A
 * change of either is seen in review; `npx vitest run test/surface -u` writes them anew.
 */
import { expect, test } from "vitest";
import { verbs } from "../../src/cli/verbs/index.js";
import { publicDeclarations } from "./declarations.js";

test("the library's exports and their types are those that are written down", async () => {
  const declarations = publicDeclarations();
  expect(declarations).toContain("static load(name: string");
  await expect(declarations).toMatchFileSnapshot("library.txt");
});

test("the verbs, their operands, options and JSON keys are those that are written down", async () => {
  const lines: string[] = [];
  for (const load of Object.values(verbs)) {
    const { name, operands = {}, options, jsonKeys } = await load();
    lines.push(`blip2 ${name}`);
    for (const [operand, { help: _help, ...rest }] of Object.entries(operands))
      lines.push(`  operand ${operand} ${JSON.stringify(rest)}`);
    for (const [option, { help: _help, ...rest }] of Object.entries(options))
      lines.push(`  --${option} ${JSON.stringify(rest)}`);
    lines.push(`  json ${Object.keys(jsonKeys).join(", ")}`, "");
  }
  await expect(lines.join("\n")).toMatchFileSnapshot("verbs.txt");
});
