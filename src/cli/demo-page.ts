/** The page that the demo writes. */
import path from "node:path";

/** What a model says of a picture. */
export interface ShownText {
  readonly model: string;
  readonly caption: string;
  readonly answers: readonly { readonly question: string; readonly answer: string }[];
  readonly itmProbability: number;
  /** PNG: the picture, and where the caption is found in it. */
  readonly attention: Uint8Array;
  readonly seconds: number;
}

export interface ShownPicture {
  /** The file's name. */
  readonly picture: string;
  readonly bytes: Uint8Array;
  /** By every model. */
  readonly said: readonly ShownText[];
}

/** One file that needs no other: pictures are inside it. */
export function demoPage(
  shown: readonly ShownPicture[],
  run: { readonly models: readonly string[]; readonly loadSeconds: number },
): string {
  const total = shown.flatMap(({ said }) => said).reduce((sum, { seconds: taken }) => sum + taken, 0);
  const figures = shown.map(({ picture, bytes, said }) => {
    const kind = path.extname(picture).slice(1).replace("jpg", "jpeg");
    return `      <figure>
        <img src="${source(kind, bytes)}" alt="${escape(said[0]!.caption)}" width="384" height="384">
        <figcaption>
${said.map(block).join("\n")}
          <small>${escape(picture)}</small>
        </figcaption>
      </figure>`;
  });
  const [model] = run.models;
  const told =
    run.models.length === 1
      ? `the model ${escape(model!)}: a frozen image encoder and a frozen language model, joined by a Querying Transformer`
      : `${run.models.map(escape).join(" and ")}: in each, a frozen image encoder and a frozen language model, joined by a Querying Transformer`;
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
      main > section { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); }
      figure { margin: 0; overflow: hidden; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
      img { display: block; width: 100%; height: auto; }
      figcaption { padding: 0.8rem 1rem 1rem; }
      figcaption section { margin-bottom: 0.7rem; padding-bottom: 0.8rem; border-bottom: 1px solid var(--line); }
      ul { margin: 0.6rem 0 0; padding: 0; list-style: none; color: var(--faint); font-size: 0.9rem; }
      ul b { color: var(--ink); font-weight: 600; }
      details { margin-top: 0.6rem; color: var(--faint); font-size: 0.85rem; }
      details img { margin-top: 0.4rem; border-radius: 6px; }
      small { display: block; margin-bottom: 0.3rem; color: var(--faint); font-size: 0.78rem; }
    </style>
  </head>
  <body>
    <main>
      <h1>What the pictures show</h1>
      <p>Captions and answers by ${told}. Loaded in ${run.loadSeconds.toFixed(1)} s, ${shown.length} pictures in ${total.toFixed(1)} s.</p>
      <section>
${figures.join("\n")}
      </section>
    </main>
  </body>
</html>
`;
}

/** What one model says. */
function block({ model, caption, answers, itmProbability, attention, seconds: taken }: ShownText): string {
  const lines = answers.map(
    ({ question, answer }) => `              <li>${escape(question)} <b>${escape(answer)}</b></li>`,
  );
  return `          <section>
            <small>${escape(model)} · match ${(100 * itmProbability).toFixed(0)} % · ${taken.toFixed(2)} s</small>
            ${escape(caption)}
            <ul>
${lines.join("\n")}
            </ul>
            <details>
              <summary>where the caption is found</summary>
              <img src="${source("png", attention)}" alt="the picture, and beside it where the caption is found in it">
            </details>
          </section>`;
}

const source = (kind: string, bytes: Uint8Array): string =>
  `data:image/${kind};base64,${Buffer.from(bytes).toString("base64")}`;

function escape(text: string): string {
  const marks: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replace(/[&<>"]/g, (mark) => marks[mark]!);
}
