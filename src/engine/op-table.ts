/** The rule of every op. A new op without a rule does not compile. */
import type { OpName } from "./graph.js";
import { activationRules } from "./ops/activation.js";
import { elementwiseRules } from "./ops/elementwise.js";
import { indexingRules } from "./ops/indexing.js";
import { linearAlgebraRules } from "./ops/linear-algebra.js";
import { movementRules } from "./ops/movement.js";
import { randomRules } from "./ops/random.js";
import { reductionRules } from "./ops/reduction.js";
import type { RuleTable } from "./ops/rule.js";

const leaf = {
  emit: () => {
    // Leaves are written by the emitter itself: they are the graph's inputs and initialisers.
  },
  gradient: "it is a leaf",
} as const;

export const opTable: RuleTable<OpName> = {
  input: leaf,
  parameter: leaf,
  frozen: leaf,
  constant: leaf,
  ...elementwiseRules,
  ...activationRules,
  ...linearAlgebraRules,
  ...movementRules,
  ...reductionRules,
  ...indexingRules,
  ...randomRules,
};
