/** Reverse-mode differentiation: the gradients of a graph, as a graph. */
import { InternalError } from "../errors.js";
import { sameShape } from "./dims.js";
import type { Node, OpName, Tensor } from "./graph.js";
import { scalar } from "./graph.js";
import { opTable } from "./op-table.js";
import * as ops from "./ops.js";
import type { OpRule } from "./ops/rule.js";

/** The nodes that `roots` depend on, each after its own inputs. */
export function topologicalOrder(roots: readonly Tensor[]): readonly Node[] {
  const order: Node[] = [];
  const seen = new Set<Node>();
  // An explicit stack: a deep model would overflow the call stack.
  const stack: { readonly node: Node; next: number }[] = [];
  const visit = (node: Node): void => {
    if (seen.has(node)) return;
    seen.add(node);
    stack.push({ node, next: 0 });
  };
  for (const root of roots) {
    visit(root.node);
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      const child = top.node.inputs[top.next];
      if (child === undefined) {
        order.push(top.node);
        stack.pop();
      } else {
        top.next += 1;
        visit(child.node);
      }
    }
  }
  return order;
}

/**
 * The gradients of the scalar `loss` with respect to `targets` (any tensors that it depends on), in
 * order. Nodes are built only along paths from a target to the loss; nothing passes `stopGradient`.
 * Throws when a target does not influence the loss, naming it.
 */
export function gradients(loss: Tensor, targets: readonly Tensor[]): readonly Tensor[] {
  if (loss.rank !== 0) throw new InternalError(`gradients: the loss must be a scalar, got ${loss}`);
  const order = topologicalOrder([loss]);
  const targetSet = new Set(targets);

  const leadsToTarget = new Set<Tensor>();
  for (const node of order) {
    const reaches = node.kind !== "stopGradient" && node.inputs.some((child) => leadsToTarget.has(child));
    for (const output of node.outputs) if (reaches || targetSet.has(output)) leadsToTarget.add(output);
  }

  const arriving = new Map<Tensor, Tensor[]>([[loss, [scalar(1)]]]);
  // A tensor is final once every consumer has been visited, which reverse order ensures.
  const total = (tensor: Tensor): Tensor | undefined => {
    const parts = arriving.get(tensor);
    if (parts === undefined) return undefined;
    const sum = parts.reduce((a, b) => ops.add(a, b));
    arriving.set(tensor, [sum]);
    return sum;
  };

  for (const node of order.toReversed()) {
    const wants = node.inputs.map((child) => leadsToTarget.has(child));
    if (node.kind === "stopGradient" || !wants.includes(true)) continue;
    const upstream = total(node.outputs[0]!);
    if (upstream === undefined) continue;
    if (node.outputs.slice(1).some((extra) => arriving.has(extra))) {
      throw new InternalError(`gradients: ${node.kind} passes a gradient through its first output only`);
    }
    const rule = opTable[node.kind] as OpRule<OpName>;
    if (typeof rule.gradient === "string") {
      throw new InternalError(
        `gradients: ${node.kind} lies between the loss and a target, but ${rule.gradient}`,
      );
    }
    const parts = rule.gradient({ node, inputs: node.inputs, outputs: node.outputs, upstream, wants, ops });
    for (const [i, child] of node.inputs.entries()) {
      const part = parts[i];
      if (!wants[i] || part === undefined) continue;
      if (!sameShape(part.shape, child.shape)) {
        throw new InternalError(`gradients: ${node.kind} gave ${part} for input ${i}, ${child}`);
      }
      const list = arriving.get(child);
      if (list === undefined) arriving.set(child, [part]);
      else list.push(part);
    }
  }

  return targets.map((target) => {
    const gradient = total(target);
    if (gradient === undefined) {
      const name = "name" in target.node.attributes ? target.node.attributes.name : String(target);
      throw new InternalError(`gradients: the loss does not depend on ${name}`);
    }
    return gradient;
  });
}

/** The trainable parameters that `roots` depend on, by name, in the order of first use. */
export function trainableParameters(roots: readonly Tensor[]): ReadonlyMap<string, Tensor> {
  return parametersAmong(topologicalOrder(roots));
}

/** Of those of `loss`, the ones that its gradient reaches. */
export function learntParameters(loss: Tensor): ReadonlyMap<string, Tensor> {
  const order = topologicalOrder([loss]);
  const reached = new Set<Node>([loss.node]);
  for (const node of order.toReversed()) {
    const isEnd = node.kind === "stopGradient" || typeof opTable[node.kind].gradient === "string";
    if (!reached.has(node) || isEnd) continue;
    for (const child of node.inputs) reached.add(child.node);
  }
  return parametersAmong(order.filter((node) => reached.has(node)));
}

function parametersAmong(order: readonly Node[]): ReadonlyMap<string, Tensor> {
  const found = new Map<string, Tensor>();
  for (const node of order) {
    if (node.kind !== "parameter") continue;
    const { name } = (node as Node<"parameter">).attributes;
    const tensor = node.outputs[0]!;
    const known = found.get(name);
    if (known !== undefined && known !== tensor) throw new InternalError(`two parameters are called ${name}`);
    found.set(name, tensor);
  }
  return found;
}
