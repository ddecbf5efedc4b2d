/** docs/experiments.md, made from the published results alone. */
import { mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { writeFileAtomic } from "../../src/files/atomic-write.js";
import { InternalError } from "../../src/errors.js";
import { armsOf, type ArmData } from "./data.js";
import type { Experiment, Places, Plan } from "./experiment.js";
import { plotSvg } from "./plot.js";
import { list } from "./prose.js";
import { sections, type Section } from "./sections.js";
import { leastSeeds } from "./statistics.js";

const head = `# Experiments

What the BLIP-2 paper (Li et al. 2023) claims, tried in the [scenes world](scenes.md): small models, drawn pictures, minutes of
training. A claim that is borne out here need not hold elsewhere, and one that is not may need more scale than this.

This page is made by \`npm run experiments -- page\` from the logs in [experiments/](experiments/); no number and no
conclusion on it is written by hand. \`npm run experiments -- run NAME\` makes the logs: it trains and measures what is not
there yet, and goes on where it was stopped.

How to read it:

- A cell \`61.2 ± 1.4 (59.8 to 62.9)\` is the mean, the standard deviation and the range over the seeds. Shares are in percent,
  their differences in points.
- Two arms are said to differ only with at least ${leastSeeds} seeds on each side, ranges that do not overlap, and means further apart than the
  wider of the two ranges. Anything less is "no difference larger than the spread". With three seeds, ranges that do not overlap
  come by chance once in ten, so one such line is a hint, and several that agree are more.
- Commits are those of the sources that measured; a plus sign behind one says that they held changes that were not committed.
- Bands in plots are the range of the seeds, lines go through the means.
`;

/** Writes the page and its plots. Experiments without results are named as such. */
export async function writePage(plan: Plan, places: Places): Promise<void> {
  const parts: string[] = [head];
  for (const experiment of plan.experiments) {
    const describe = sections[experiment.name];
    if (describe === undefined) throw new InternalError(`the page has no section for ${experiment.name}`);
    const arms = await armsOf(plan, places, experiment);
    const section = describe(arms, plan.measured);
    const plot = await writePlot(places, experiment, section, arms);
    parts.push(sectionText(experiment, section, arms, plot));
  }
  await mkdir(dirname(places.page), { recursive: true });
  await writeFileAtomic(places.page, parts.join("\n"));
}

function sectionText(
  { name }: Experiment,
  { title, question, body }: Section,
  arms: readonly ArmData[],
  plot: string | undefined,
): string {
  const missing = arms.filter((arm) => arm.isEmpty);
  const command = `\`npm run experiments -- run ${name}\``;
  const isMissing = missing.length === arms.length;
  const commits = [...new Set(arms.flatMap((arm) => arm.commits))];
  const paragraphs = [
    `## ${title}`,
    question,
    ...(isMissing
      ? [`Not run yet: ${command}.`]
      : [
          `Made by ${command}, at ${commits.join(", ")}.`,
          missing.length === 0 ? "" : list([`Not run yet: ${missing.map(({ label }) => label).join("; ")}.`]),
          plot === undefined ? "" : `![${title}](${plot})`,
          ...body,
        ]),
  ];
  return `${paragraphs.filter((paragraph) => paragraph !== "").join("\n\n")}\n`;
}

/** Returns the plot's path from the page; an old plot without numbers behind it goes. */
async function writePlot(
  places: Places,
  { name }: Experiment,
  { title, panels }: Section,
  arms: readonly ArmData[],
): Promise<string | undefined> {
  const relative = `experiments/${name}.svg`;
  const file = join(dirname(places.page), relative);
  const svg = arms.every((arm) => arm.isEmpty) ? undefined : plotSvg(title, panels);
  if (svg === undefined) {
    await rm(file, { force: true });
    return undefined;
  }
  await mkdir(dirname(file), { recursive: true });
  await writeFileAtomic(file, svg);
  return relative;
}
