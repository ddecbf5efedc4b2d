import { mkdir, readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../../errors.js";
import { packageRoot } from "../package-root.js";
import { modelFolder, modelOptions } from "../model-option.js";
import { defineVerb } from "../verb.js";
import { bundledModel } from "../generation-options.js";

const samples = fileURLToPath(new URL("samples", packageRoot));

export const demo = defineVerb({
  name: "demo",
  summary: "caption the sample pictures and make a page of them",
  options: {
    out: {
      type: "string",
      value: "FILE",
      default: "demo/index.html",
      help: "the page; its folder is made if need be",
    },
    ...modelOptions,
  },
  jsonKeys: {
    picture: "the file's name in samples/",
    caption: "what the model says",
    seconds: "from the picture's bytes to the text",
  },
  examples: ["blip2 demo", "blip2 demo --out /tmp/demo.html"],

  async run(context, { options: { out, model: name = bundledModel, revision } }) {
    const { output, progress, log, signal } = context;
    const { Blip2 } = await import("../../index.js");
    const { writeFileAtomic } = await import("../../checkpoints/atomic-write.js");
    const names = (await readdir(samples)).filter((name) => /\.(png|jpe?g|webp)$/.test(name)).sort();
    if (names.length === 0) throw new UserError(`${samples}: holds no pictures; install the package again`);
    const folder = await modelFolder(context, name, revision);
    const started = performance.now();
    await using model = await Blip2.load(folder, { signal });
    const loadSeconds = seconds(started);
    const shown: Shown[] = [];
    for (const [step, picture] of names.entries()) {
      progress.update({ label: "demo", step, total: names.length });
      const bytes = await readFile(path.join(samples, picture));
      const begun = performance.now();
      const { text } = await model.generate({ image: bytes, signal });
      shown.push({ picture, caption: text, seconds: seconds(begun), bytes });
    }
    await mkdir(path.dirname(path.resolve(out)), { recursive: true });
    await writeFileAtomic(out, page(shown, { model: path.basename(name), loadSeconds }));
    output.table(shown.map(({ picture, caption, seconds: taken }) => ({ picture, caption, seconds: taken })));
    log(`${out}: the pictures with their captions; open it in a browser`);
  },
});

interface Shown {
  readonly picture: string;
  readonly caption: string;
  readonly seconds: number;
  readonly bytes: Uint8Array;
}

function seconds(since: number): number {
  return Math.round(performance.now() - since) / 1000;
}

/** One file that needs no other: pictures are inside it. */
function page(
  shown: readonly Shown[],
  run: { readonly model: string; readonly loadSeconds: number },
): string {
  const total = shown.reduce((sum, row) => sum + row.seconds, 0);
  const figures = shown.map(({ picture, caption, seconds: taken, bytes }) => {
    const kind = path.extname(picture).slice(1).replace("jpg", "jpeg");
    const source = `data:image/${kind};base64,${Buffer.from(bytes).toString("base64")}`;
    return `      <figure>
        <img src="${source}" alt="${escape(caption)}" width="384" height="384">
        <figcaption>${escape(caption)}<small>${escape(picture)} · ${taken.toFixed(2)} s</small></figcaption>
      </figure>`;
  });
  return `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>blip2: what the pictures show</title>
    <style>
      :root { color-scheme: light dark; --page: #f6f5f1; --card: #fff; --ink: #23221f; --faint: #6f6c64; --line: #dedbd2; }
      @media (prefers-color-scheme: dark) {
        :root { --page: #17181b; --card: #212328; --ink: #ecebe6; --faint: #a09d95; --line: #34373e; }
      }
      * { box-sizing: border-box; }
      body { margin: 0; background: var(--page); color: var(--ink); font: 17px/1.45 system-ui, sans-serif; }
      main { max-width: 76rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
      h1 { margin: 0 0 0.3rem; font-size: 1.9rem; letter-spacing: -0.01em; }
      p { margin: 0 0 2rem; max-width: 44rem; color: var(--faint); }
      section { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); }
      figure { margin: 0; overflow: hidden; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
      img { display: block; width: 100%; height: auto; }
      figcaption { padding: 0.9rem 1rem 1rem; }
      small { display: block; margin-top: 0.45rem; color: var(--faint); font-size: 0.78rem; }
    </style>
  </head>
  <body>
    <main>
      <h1>What the pictures show</h1>
      <p>Captions by the model ${escape(run.model)}: a frozen image encoder and a frozen language model, joined by a
        Querying Transformer. Loaded in ${run.loadSeconds.toFixed(1)} s, ${shown.length} pictures in ${total.toFixed(1)} s.</p>
      <section>
${figures.join("\n")}
      </section>
    </main>
  </body>
</html>
`;
}

function escape(text: string): string {
  const marks: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replace(/[&<>"]/g, (mark) => marks[mark]!);
}
