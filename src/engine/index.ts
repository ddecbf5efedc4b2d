/** The engine's surface for the layers above. */
export { gradients, trainableParameters } from "./autodiff.js";
export { availableCpus } from "./cpu-count.js";
export * from "./dims.js";
export { emit, type FrozenWeights, type Weights } from "./emit.js";
export { constant, expectShape, frozen, input, integer, parameter, scalar, Tensor } from "./graph.js";
export { Device, Program, type HostTensors } from "./session.js";
export type { ByteProducts } from "./ops/rule.js";
export * as ops from "./ops.js";
