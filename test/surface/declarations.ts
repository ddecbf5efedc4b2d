/** Reads the declarations that the compiler makes of the sources: what callers of the library can see, without comments. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));

/** Each exported name of a file with where it comes from: this file or another. */
interface DeclarationFile {
  readonly text: string;
  readonly imports: ReadonlyMap<string, { readonly file: string; readonly name: string }>;
}

const fromClause = /^(?:import|export)\s+(?:type\s+)?\{([^}]*)\}\s+from\s+"(\.[^"]+)";/gm;

function readDeclarations(file: string): DeclarationFile {
  const text = readFileSync(file, "utf8").replace(/\/\*[\s\S]*?\*\//g, "");
  const imports = new Map<string, { file: string; name: string }>();
  for (const [, names = "", specifier = ""] of text.matchAll(fromClause)) {
    const target = path.join(path.dirname(file), specifier.replace(/\.js$/, ".d.ts"));
    for (const item of names.split(",")) {
      const [name, alias = name] = item
        .trim()
        .replace(/^type\s+/, "")
        .split(/\s+as\s+/);
      if (name) imports.set(alias!, { file: target, name });
    }
  }
  return { text, imports };
}

/** The statement that declares `name`, from its keyword to the bracket or semicolon that ends it. */
function declarationOf(text: string, name: string): string | undefined {
  const start = new RegExp(
    `^(?:export )?(?:declare )?(?:abstract )?(?:class|interface|type|function|const|let|enum) ${name}\\b`,
    "m",
  ).exec(text);
  if (start === null) return undefined;
  let depth = 0;
  for (let i = start.index; i < text.length; i++) {
    const character = text[i]!;
    if ("{([".includes(character)) depth += 1;
    if ("})]".includes(character)) depth -= 1;
    const ends = character === ";" || (character === "}" && /^(?:\s*\n|$)/.test(text.slice(i + 1)));
    if (depth === 0 && ends) return text.slice(start.index, i + 1);
  }
  return undefined;
}

const withoutPrivates = (declaration: string): string =>
  declaration.replace(/^\s*private\b.*$\n?/gm, "").replace(/\n\s*\n/g, "\n");

/**
 * The exports of src/index.ts and the types that they speak of, each with its declaration, sorted by name. Private members are left
 * out, and so is where things are declared: that is free to move.
 */
export function publicDeclarations(): string {
  const out = mkdtempSync(path.join(tmpdir(), "blip2-declarations-"));
  try {
    const compiler = path.join(root, "node_modules/typescript/bin/tsc");
    const options = [
      "-p",
      path.join(root, "tsconfig.build.json"),
      "--emitDeclarationOnly",
      "--sourceMap",
      "false",
    ];
    execFileSync(process.execPath, [compiler, ...options, "--outDir", out], { cwd: root });
    const files = new Map<string, DeclarationFile>();
    const fileOf = (file: string): DeclarationFile => {
      const known = files.get(file) ?? readDeclarations(file);
      files.set(file, known);
      return known;
    };
    const found = new Map<string, string>();
    const visit = (file: string, name: string): void => {
      const { text, imports } = fileOf(file);
      const origin = imports.get(name);
      if (origin !== undefined) return visit(origin.file, origin.name);
      const declaration = declarationOf(text, name);
      if (declaration === undefined || found.has(name)) return;
      const told = withoutPrivates(declaration).replace(/^(?:export |declare )+/, "");
      found.set(name, told);
      for (const word of new Set(told.match(/\b[A-Za-z_]\w*\b/g))) {
        if (word === name) continue;
        if (imports.has(word) || declarationOf(text, word) !== undefined) visit(file, word);
      }
    };
    const index = path.join(out, "index.d.ts");
    const exported = [...fileOf(index).imports.keys()].sort();
    for (const name of exported) visit(index, name);
    const lines = [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, declaration]) => declaration);
    return `exports: ${exported.join(", ")}\n\n${lines.join("\n\n")}\n`;
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}
