/** Every op builder, for `import * as ops` and for gradient rules. */
export { addDims, multiplyDims } from "./dims.js";
export * from "./ops/activation.js";
export * from "./ops/composed.js";
export * from "./ops/elementwise.js";
export * from "./ops/indexing.js";
export * from "./ops/linear-algebra.js";
export * from "./ops/movement.js";
export * from "./ops/random.js";
export * from "./ops/reduction.js";
