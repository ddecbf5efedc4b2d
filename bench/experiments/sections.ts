/** What the page says of each experiment: plots, tables, and conclusions that follow from the numbers. */
import type { ArmData } from "./data.js";
import type { Measured } from "./experiment.js";
import type { Panel } from "./plot.js";
import {
  agreement,
  course,
  difference,
  list,
  pairedDifference,
  percent,
  plain,
  spreadCell,
  table,
  type Unit,
} from "./prose.js";
import { publishedSizes } from "./published-sizes.js";

export interface Section {
  readonly title: string;
  /** What is asked, and what the paper says to it. */
  readonly question: string;
  /** Of a plot, as in the file name; absent where there is none. */
  readonly panels: readonly Panel[];
  /** Paragraphs and tables. */
  readonly body: readonly string[];
}

export type Describe = (arms: readonly ArmData[], measured: Measured) => Section;

const over = (arms: readonly ArmData[], measure: string, title: string, isShare = true): Panel => ({
  title,
  across: "steps",
  isShare,
  series: arms.map((arm) => ({ label: arm.label, points: arm.points(measure) })),
});

/** A row per arm, mean, deviation and range of the seeds at the last step. */
function armTable(
  arms: readonly ArmData[],
  columns: readonly (readonly [title: string, measure: string, unit: Unit])[],
): string {
  return table(
    ["", "seeds", "steps", "minutes a run", ...columns.map(([title]) => title)],
    arms
      .filter((arm) => !arm.isEmpty)
      .map((arm) => [
        arm.label,
        String(arm.seeds.length),
        String(arm.lastStep),
        (arm.seconds / 60).toFixed(1),
        ...columns.map(([, measure, unit]) => spreadCell(arm.summary(measure), unit)),
      ]),
    ["left", "right", "right", "right"],
  );
}

const named = (arms: readonly ArmData[], name: string): ArmData => arms.find((arm) => arm.name === name)!;

/** Says so where matching heads are hardly better than a coin: then ranking by them says nothing about trained ones. */
function undecidedHeads(arms: readonly ArmData[]): string[] {
  return arms.flatMap((arm) => {
    const accuracy = arm.summary("itm accuracy");
    if (accuracy === undefined || accuracy.mean >= 0.6) return [];
    return [
      `The matching head of ${arm.label} tells a right pair from a wrong one in ${percent.show(accuracy.mean)} % of the cases, hardly more than by chance: the runs are too short for it, and what follows says nothing about a trained head.`,
    ];
  });
}

/** What stage 2 learnt from: captions, and statements about the picture if there were any. */
function textsOf(arms: readonly ArmData[]): string {
  const shares = arms.flatMap((arm) => {
    if (arm.isEmpty) return [];
    const { statements, statementShare } = arm.config()["stage2"] as {
      readonly statements?: { readonly share?: number };
      /** As configurations of version 0.3 say it, with which most results were made. */
      readonly statementShare?: number;
    };
    return [statements?.share ?? statementShare ?? 0];
  });
  const [least, most] = [Math.min(...shares), Math.max(...shares)];
  if (most === 0) return "captions alone";
  const share = least === most ? percent.show(most) : `${percent.show(least)} to ${percent.show(most)}`;
  return `captions and, in ${share} % of the rows, statements about the picture in place of one; on no question`;
}

const twoStages: Describe = (arms, measured) => {
  const families = ["opt", "t5"].map(
    (name) => [named(arms, `${name}-both`), named(arms, `${name}-alone`)] as const,
  );
  const measures = [
    ["kinds of thing in captions, F1", "captions kindF1", percent],
    ["zero-shot VQA", "vqa accuracy", percent],
    ["validation loss", "validation loss", plain],
  ] as const;
  const compared = families.map(([both, alone]) =>
    measures.map(([title, measure, unit]) => difference(measure, both, alone, unit, title)),
  );
  return {
    title: "Stage 1 before stage 2",
    question:
      "Does the bridge need stage 1, or does stage 2 alone teach it? The paper's figure 5 compares zero-shot VQA over the steps of stage 2 with and without stage 1: without it both families answer far worse, and OPT gets worse as training goes on. The figure has no printed numbers.",
    panels: [
      over(arms, "vqa accuracy", "zero-shot VQA, accuracy"),
      over(arms, "captions kindF1", "kinds of thing in captions, F1"),
      over(arms, "validation loss", "validation loss", false),
      {
        title: "training loss",
        across: "steps",
        isShare: false,
        series: arms.map((arm) => ({ label: arm.label, points: arm.trainingPoints("loss") })),
      },
    ],
    body: [
      `Each run is one stage 2 of the same number of steps, on ${textsOf(arms)}. "Stage 1 first" begins with the bundled Q-Former after stage 1, which is the same for all seeds; "alone" draws queries and Q-Former anew. Captions are of ${measured.captions} test pictures, VQA is of ${measured.questions} questions about test pictures, which no training saw.`,
      armTable(arms, measures),
      list(compared.flat().map((one) => one?.sentence)),
      "Over the steps (zero-shot VQA, best earlier step against the last):",
      list(arms.map((arm) => course(arm, "vqa accuracy", percent))),
      agreement(
        "Stage 1 first gives better zero-shot VQA, in both families",
        compared.map(([, vqa]) => vqa?.verdict),
        "above",
      ),
    ],
  };
};

const directions = [
  ["picture to text", "image to text"],
  ["text to picture", "text to image"],
] as const;

const retrievalLosses: Describe = (arms, measured) => {
  const [with3, with2] = [named(arms, "with-itg"), named(arms, "without-itg")];
  const recall = (measure: string, direction: string): string => `${measure} ${direction} recall@1`;
  const compared = (measure: string) =>
    directions.map(([words, direction]) =>
      difference(
        recall(measure, direction),
        with3,
        with2,
        percent,
        `${words}, recall@1 by ${measure.toUpperCase()}`,
      ),
    );
  const [byItc, byItm] = [compared("itc"), compared("itm")];
  return {
    title: "Retrieval with and without image-grounded generation",
    question:
      "Does learning to write captions (ITG) help to find them? In the paper's table 6, fine-tuned on COCO, recall@1 rises with ITG from 84.5 to 85.4 for texts and from 67.2 to 68.3 for pictures.",
    panels: [
      ...directions.map(([words, direction]) =>
        over(arms, recall("itc", direction), `${words}, recall@1 by ITC`),
      ),
      over(arms, "itm accuracy", "matching, accuracy"),
      over(arms, "itm accuracy, hardest negatives", "matching against the hardest texts"),
    ],
    body: [
      `Each run is a short stage 1. Retrieval is among ${measured.pairs} test pairs; "by ITM" ranks the best ${measured.rerank} again, as the paper does for its numbers. Steps are equal; without ITG they are cheaper (see the minutes).`,
      armTable(arms, [
        ...directions.map(
          ([words, direction]) => [`${words}, ITC`, recall("itc", direction), percent] as const,
        ),
        ...directions.map(
          ([words, direction]) => [`${words}, ITM`, recall("itm", direction), percent] as const,
        ),
      ]),
      list([...byItc, ...byItm].map((one) => one?.sentence)),
      agreement(
        "ITG helps retrieval",
        byItm.map((one) => one?.verdict),
        "above",
      ),
    ],
  };
};

const reranking: Describe = (arms, measured) => {
  const known = arms.filter((arm) => !arm.isEmpty);
  const compared = known.flatMap((arm) =>
    directions.map(([words, direction]) =>
      pairedDifference(
        arm,
        `itm ${direction} recall@1`,
        `itc ${direction} recall@1`,
        percent,
        `${arm.label}, ${words}, recall@1 after against before`,
      ),
    ),
  );
  const depths = [1, 5, 10];
  return {
    title: "Ranking the best again by the matching head",
    question:
      "The paper retrieves in two steps: ITC ranks everything, and the matching head (ITM), which sees picture and text together, ranks the best again. It reports the second ranking only, and gives no number for what it adds.",
    panels: [],
    body: [
      `The models of the section before. The best ${measured.rerank} of each list are ranked again by the sum of the matching head's logit and the similarity. Means over the seeds, in percent:`,
      table(
        [
          "",
          "",
          ...depths.map((depth) => `recall@${depth}, ITC`),
          ...depths.map((depth) => `recall@${depth}, ITM`),
        ],
        known.flatMap((arm) =>
          directions.map(([words, direction]) => [
            arm.label,
            words,
            ...["itc", "itm"].flatMap((measure) =>
              depths.map((depth) => {
                const summary = arm.summary(`${measure} ${direction} recall@${depth}`);
                return summary === undefined ? "" : percent.show(summary.mean);
              }),
            ),
          ]),
        ),
        ["left", "left", ...Array<"right">(6).fill("right")],
      ),
      list(compared.map((one) => one?.sentence)),
      ...undecidedHeads(known),
      agreement(
        "Ranking again by ITM finds more than ITC alone",
        compared.map((one) => one?.verdict),
        "above",
      ),
    ],
  };
};

const zeroShotVqa: Describe = (arms) => {
  const families = ["opt", "t5"].map((name) => ({
    picture: named(arms, `${name}-picture`),
    nothing: named(arms, `${name}-nothing`),
    description: named(arms, `${name}-description`),
  }));
  const reached: boolean[] = [];
  const body = families.flatMap(({ picture, nothing, description }) => {
    if (picture.isEmpty || nothing.isEmpty || description.isEmpty) return [];
    const label = picture.label.replace(/,.*/, "");
    const accuracy = (arm: ArmData): number => arm.value("accuracy")!;
    const types = picture.measures.filter((name) => name.startsWith("accuracy: "));
    const row = (title: string, name: string): string[] => {
      const constant = nothing.value(name.replace("accuracy", "most frequent answer"));
      return [
        title,
        ...[picture, nothing].map((arm) => percent.show(arm.value(name) ?? 0)),
        constant === undefined ? "" : percent.show(constant),
        percent.show(description.value(name) ?? 0),
        percent.showDifference((picture.value(name) ?? 0) - (nothing.value(name) ?? 0)),
      ];
    };
    const questions = picture.value("questions") ?? 0;
    const error = Math.sqrt((accuracy(picture) * (1 - accuracy(picture))) / questions);
    const gain = accuracy(picture) - accuracy(nothing);
    reached.push(accuracy(picture) >= 0.7 && gain >= 0.3);
    const worst = types.reduce((a, b) =>
      (picture.value(a) ?? 0) - (nothing.value(a) ?? 0) < (picture.value(b) ?? 0) - (nothing.value(b) ?? 0)
        ? a
        : b,
    );
    return [
      `${label}, \`${String(picture.config()["model"])}\`, ${questions} questions (one model, so no spread of seeds; the standard error of sampling the questions is about ${percent.show(error)} points):`,
      table(
        [
          "questions",
          "with the picture",
          "language prior",
          "most frequent answer",
          "with the description",
          "above the prior",
        ],
        [row("all", "accuracy"), ...types.map((name) => row(name.slice("accuracy: ".length), name))],
        ["left", ...Array<"right">(5).fill("right")],
      ),
      `${label} answers ${percent.show(accuracy(picture))} % with the picture, ${percent.showDifference(gain)} points from its prior of ${percent.show(accuracy(nothing))} %, and ${percent.show(accuracy(description))} % with the description, which bounds what the soft prompt could carry. The picture gives least to questions of type ${worst.slice("accuracy: ".length)}.`,
    ];
  });
  const goal = "The project's goal, at least 70 % and at least 30 points above the prior in one family";
  return {
    title: "Zero-shot visual question answering",
    question:
      "Stage 2 saw captions and sentences of one fact each, but no question, and the language models saw text only. Do they answer questions about pictures? In the paper's table 2, ViT-g with OPT-2.7B reaches 52.3 on VQAv2 test-dev and with FlanT5-XL 63.0, without training on any question about a picture. The paper gives neither of the two other columns: what the language model answers without the picture (its prior), and what it answers from a true description (a ceiling).",
    panels: [],
    body: [
      ...body,
      reached.length === 0 ? "" : `**${goal}:** ${reached.some(Boolean) ? "reached" : "not reached"}.`,
    ],
  };
};

const queryCount = (arm: ArmData): number => (arm.config()["stage1"] as { queries: number }).queries;

const queries: Describe = (arms, measured) => {
  const known = arms.filter((arm) => !arm.isEmpty).sort((a, b) => queryCount(a) - queryCount(b));
  const panel = (measure: string, title: string): Panel => ({
    title,
    across: "queries",
    isShare: true,
    series: [
      {
        label: "mean and range of the seeds",
        points: known.flatMap((arm) => {
          const y = arm.summary(measure);
          return y === undefined ? [] : [{ x: queryCount(arm), y }];
        }),
      },
    ],
  });
  const measures = [
    ["picture to text, recall@1 by ITC", "itc image to text recall@1"],
    ["text to picture, recall@1 by ITC", "itc text to image recall@1"],
    ["matching, accuracy", "itm accuracy"],
    ["matching against the hardest texts", "itm accuracy, hardest negatives"],
  ] as const;
  const pairs = known.slice(1).map((arm, i) => [arm, known[i]!] as const);
  const compared = pairs.flatMap(([more, fewer]) =>
    measures.map(([title, measure]) => difference(measure, more, fewer, percent, title)),
  );
  return {
    title: "The number of queries",
    question:
      "How many queries does a picture need? The paper uses 32 throughout and reports no other number; so there is nothing to agree with, only a choice to look at.",
    panels: measures.map(([title, measure]) => panel(measure, title)),
    body: [
      `Each run is a short stage 1 of equal length. Retrieval is among ${measured.pairs} test pairs.`,
      armTable(
        known,
        measures.map(([title, measure]) => [title, measure, percent] as const),
      ),
      list(compared.map((one) => one?.sentence)),
    ],
  };
};

const parameters: Describe = (arms) => {
  const known = arms.filter((arm) => !arm.isEmpty);
  const count = (value: number | undefined): string =>
    value === undefined
      ? ""
      : value >= 1e9
        ? `${(value / 1e9).toFixed(2)} G`
        : value >= 1e6
          ? `${(value / 1e6).toFixed(1)} M`
          : `${(value / 1e3).toFixed(1)} k`;
  const ratio = (arm: ArmData, stage: string): string =>
    `${percent.show(arm.value(`${stage}: trainable`)! / arm.value(`${stage}: all`)!)} %`;
  const parts = new Set(
    known
      .flatMap((arm) => arm.measures)
      .flatMap((name) => {
        const part = /^stage \d: (?!trainable|all)(.*)$/.exec(name)?.[1];
        return part === undefined ? [] : [part];
      }),
  );
  const published = publishedSizes.flatMap(({ name, label, paper }) => {
    const arm = known.find((one) => one.name === name);
    if (arm === undefined) return [];
    const [trainable, all] = [arm.value("stage 2: trainable")!, arm.value("stage 2: all")!];
    return [
      [
        label,
        `${(trainable / 1e6).toFixed(1)} M`,
        `${paper.trainable} M`,
        `${(all / 1e9).toFixed(2)} G`,
        `${paper.all} G`,
      ],
    ];
  });
  return {
    title: "Trainable weights against all",
    question:
      "How little of the model is trained? The paper's table 2 gives both numbers for stage 2; it speaks of 188 million for the Q-Former in stage 1, text side included.",
    panels: [],
    body: [
      "Counted from the configs, through the declared shapes of the models; nothing is allocated. M are millions, G thousand millions.",
      table(
        ["", "stage 1 trains", "of", "share", "stage 2 trains", "of", "share"],
        known.map((arm) => [
          arm.label,
          count(arm.value("stage 1: trainable")),
          count(arm.value("stage 1: all")),
          ratio(arm, "stage 1"),
          count(arm.value("stage 2: trainable")),
          count(arm.value("stage 2: all")),
          ratio(arm, "stage 2"),
        ]),
        ["left", ...Array<"right">(6).fill("right")],
      ),
      "By part (a part that both stages have is the same in both):",
      table(
        ["", ...parts],
        known.map((arm) => [
          arm.label,
          ...[...parts].map((part) => count(arm.value(`stage 2: ${part}`) ?? arm.value(`stage 1: ${part}`))),
        ]),
        ["left", ...Array<"right">(parts.size).fill("right")],
      ),
      published.length === 0 ? "" : "Beside the paper's table 2 (stage 2):",
      published.length === 0
        ? ""
        : table(["", "trained", "paper", "all", "paper"], published, [
            "left",
            "right",
            "right",
            "right",
            "right",
          ]),
    ],
  };
};

/** By the names of the experiments, in the order of the page. */
export const sections: Readonly<Record<string, Describe>> = {
  "two-stages": twoStages,
  "retrieval-losses": retrievalLosses,
  reranking,
  "zero-shot-vqa": zeroShotVqa,
  queries,
  parameters,
};
