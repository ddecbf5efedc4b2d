/** The engine's surface for the layers above. */
export { gradients, learntParameters, trainableParameters } from "./autodiff.js";
export * from "./dims.js";
export { emit, type FrozenWeights, type Weights } from "./emit.js";
export { constant, expectShape, frozen, input, integer, parameter, scalar, Tensor } from "./graph.js";
export type { Device, HostTensors, OwnSlots, Program, Slots } from "./device.js";
export type { ByteProducts } from "./ops/rule.js";
export * as ops from "./ops.js";
