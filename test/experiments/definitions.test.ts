import { expect, it } from "vitest";
import { plan } from "../../bench/experiments/definitions.js";
import { Places, piecesOf } from "../../bench/experiments/experiment.js";
import { sections } from "../../bench/experiments/sections.js";
import { stageConfig } from "../../bench/experiments/stage-config.js";
import { leastSeeds } from "../../bench/experiments/statistics.js";
import { inRepository } from "../../bench/repository.js";

const places = new Places(inRepository("."));

it.each(plan.experiments)(
  "$name has a section, and configurations that pass the check",
  async (experiment) => {
    expect(Object.keys(sections)).toContain(experiment.name);
    const pieces = piecesOf(plan.experiments, experiment);
    expect(pieces).toHaveLength(experiment.seeds.length * experiment.arms.length);
    for (const piece of pieces) {
      if (piece.arm.kind !== "training") continue;
      // What claims a difference needs its seeds.
      expect(experiment.seeds.length).toBeGreaterThanOrEqual(leastSeeds);
      for (const definition of piece.arm.stages) {
        const config = await stageConfig(places, plan.measured, piece, definition);
        expect(config).toMatchObject({ seed: piece.seed, evaluateEvery: definition.measureEvery });
      }
    }
  },
);

it("gives arms of an experiment the same steps", () => {
  for (const { arms } of plan.experiments) {
    const steps = arms.flatMap((arm) =>
      arm.kind === "training" ? [JSON.stringify(arm.stages.map(({ overrides }) => overrides["steps"]))] : [],
    );
    expect(new Set(steps).size).toBeLessThanOrEqual(1);
  }
});
