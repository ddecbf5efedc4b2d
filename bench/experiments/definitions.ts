/**
 * What is tried out: every experiment with its arms, seeds, budgets and how it is measured. Step counts suit a machine that
 * does one step of stage 1 and three of stage 2 in a second on one thread; raise them where there is more time.
 */
import type { Arm, Experiment, Plan, StageDefinition } from "./experiment.js";
import { publishedSizes, publishedTextSide } from "./published-sizes.js";

const seeds = [1, 2, 3];

/** A stage 1 of five minutes. The bundled model had 1,500 steps. */
const stage1 = (overrides: StageDefinition["overrides"] = {}): StageDefinition => ({
  stage: "stage1",
  base: "configs/scenes/stage1.json",
  measureEvery: 100,
  overrides: { steps: 300, ...overrides },
});

/** A stage 2 of three minutes from the bundled stage 1, measured at two points. */
const stage2 = (overrides: StageDefinition["overrides"]): StageDefinition => ({
  stage: "stage2",
  base: "configs/scenes/stage2.json",
  measureEvery: 200,
  overrides: { stage1: "models/scenes-retrieval", steps: 400, ...overrides },
});

/** What both families learn from; as in configs/scenes/stage2-statements.json. */
const texts = {
  statements: { share: 0.5, perRow: 6 },
  maxTextLength: 64,
  softPrompt: { limit: 2.5 },
};
const opt = { languageModel: "runs/language-model-statements/model", ...texts };
/** A soft prompt larger than words, as this T5 needs it: docs/scenes.md says why. */
const t5 = {
  languageModel: "runs/t5-condensed-longer/model",
  ...texts,
  statements: { ...texts.statements, form: "dialogue" },
  softPrompt: { start: 12, limit: 30 },
};

const bundled = [
  { name: "opt", label: "OPT", model: "models/scenes-opt" },
  { name: "t5", label: "T5", model: "models/scenes-t5" },
] as const;

const vqaArms = bundled.flatMap(({ name, label, model }): Arm[] =>
  (["picture", "nothing", "description"] as const).map((given) => ({
    kind: "vqa",
    name: `${name}-${given}`,
    label: `${label}, given ${given === "picture" ? "the picture" : given === "nothing" ? "nothing" : "the description"}`,
    model,
    given,
  })),
);

const experiments: readonly Experiment[] = [
  {
    name: "two-stages",
    seeds,
    arms: [
      { kind: "training", name: "opt-both", label: "OPT, stage 1 first", stages: [stage2(opt)] },
      {
        kind: "training",
        name: "opt-alone",
        label: "OPT, stage 2 alone",
        stages: [stage2({ ...opt, freshQFormer: true })],
      },
      { kind: "training", name: "t5-both", label: "T5, stage 1 first", stages: [stage2(t5)] },
      {
        kind: "training",
        name: "t5-alone",
        label: "T5, stage 2 alone",
        stages: [stage2({ ...t5, freshQFormer: true })],
      },
    ],
  },
  {
    name: "retrieval-losses",
    seeds,
    arms: [
      { kind: "training", name: "with-itg", label: "ITC + ITM + ITG", stages: [stage1()] },
      {
        kind: "training",
        name: "without-itg",
        label: "ITC + ITM",
        stages: [stage1({ objectives: ["itc", "itm"] })],
      },
    ],
  },
  {
    name: "reranking",
    seeds,
    arms: [
      { kind: "shared", name: "with-itg", label: "ITC + ITM + ITG", experiment: "retrieval-losses" },
      { kind: "shared", name: "without-itg", label: "ITC + ITM", experiment: "retrieval-losses" },
    ],
  },
  { name: "zero-shot-vqa", seeds: [0], arms: vqaArms },
  {
    name: "queries",
    seeds,
    arms: [
      { kind: "training", name: "queries-4", label: "4 queries", stages: [stage1({ queries: 4 })] },
      { kind: "training", name: "queries-12", label: "12 queries", stages: [stage1({ queries: 12 })] },
      { kind: "shared", name: "with-itg", label: "24 queries", experiment: "retrieval-losses" },
    ],
  },
  {
    name: "parameters",
    seeds: [0],
    arms: [
      ...bundled.map(({ name, label, model }): Arm => ({
        kind: "parameters",
        name: `bundled-${name}`,
        label: `bundled, ${label}`,
        of: { model, stage1: "models/scenes-retrieval" },
      })),
      ...publishedSizes.map(({ name, label, config }): Arm => ({
        kind: "parameters",
        name,
        label,
        of: { config, textSide: publishedTextSide },
      })),
    ],
  },
];

export const plan: Plan = {
  experiments,
  measured: {
    data: "runs/scenes",
    pairs: 1000,
    rerank: 16,
    captions: 100,
    questions: 300,
    allQuestions: 1500,
  },
};
