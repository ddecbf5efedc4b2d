/**
 * A decoder-only language model with its key-value cache, as one program. Prompt, single token and whole
 * forward pass are the same graph: it reads the cache of P positions (0 before a prompt), Q soft positions
 * (0 after it) and T tokens, and yields logits where the caller wants them. One program, so the weights
 * are in memory once. The cache never leaves the worker.
 *
 * Shapes: N sequences, M sequences of the run before, P + Q + T positions, R wanted positions, E width,
 * V vocabulary, H heads, K head size.
 */
import {
  input,
  ops,
  type Device,
  type HostTensors,
  type Program,
  type Tensor,
  type FrozenWeights,
} from "../engine/index.js";
import { InternalError } from "../errors.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../host-tensor.js";
import type { Opt } from "../models/language/opt.js";
import type { Prompt, Stepper, StepperOptions } from "./search/stepper.js";

/** Running generations share one device; each has slots of its own. */
let generations = 0;

/** A cache's tensors, by layer. */
export const cacheNames = (depth: number): string[] =>
  Array.from({ length: depth }, (_, i) => [`${i}.key`, `${i}.value`]).flat();

export class Decoder {
  private readonly caches: readonly string[];

  private constructor(
    private readonly device: Device,
    private readonly program: Program,
    private readonly model: Opt,
  ) {
    this.caches = cacheNames(model.config.num_hidden_layers);
  }

  /** @param weights of `model`, by checkpoint name. */
  static async compile(
    device: Device,
    model: Opt,
    weights: FrozenWeights,
    onNotice?: (notice: string) => void,
  ): Promise<Decoder> {
    return new Decoder(device, await device.compile(graph(model), { weights, onNotice }), model);
  }

  /** The longest sequence that the model has positions for. */
  get maximumLength(): number {
    return this.model.config.max_position_embeddings;
  }

  /** Width of words and soft positions. */
  get embeddingSize(): number {
    return this.model.embeddingSize;
  }

  /** Starts a generation with an empty cache. */
  begin({ states = false }: StepperOptions = {}): Stepper {
    return new CachedStepper(this.device, this.program, this.caches, this.emptyCache(), states);
  }

  /** Logits of every position of a prompt, nothing kept. -> float32 [N, Q + T, V]. */
  async forward(prompt: Prompt, signal?: AbortSignal): Promise<HostTensor> {
    const [batch, length] = prompt.mask.dims as [number, number];
    const scope = `forward.${generations++}`;
    const slots = Object.fromEntries([
      ...this.caches.map((name) => [`next.${name}`, `${scope}.${name}`]),
      ["states", `${scope}.states`],
    ]);
    try {
      const feeds = {
        ...this.emptyCache(),
        ...promptFeeds(
          prompt,
          Array.from({ length: batch * length }, (_, i) => i),
        ),
      };
      const { logits } = await this.program.run(feeds, { signal, residentOutputs: slots });
      return { ...logits!, dims: [batch, length, logits!.dims[1]!] };
    } finally {
      await forget(this.device, Object.values(slots));
    }
  }

  private emptyCache(): HostTensors {
    const { num_attention_heads: heads, hidden_size: width } = this.model.config;
    const empty = float32Tensor([], [1, heads, 0, width / heads]);
    return Object.fromEntries(this.caches.map((name) => [`past.${name}`, empty]));
  }
}

function graph(model: Opt): Record<string, Tensor> {
  const { num_attention_heads: heads, hidden_size: width, num_hidden_layers: depth } = model.config;
  const rows = input("rows", "int64", ["N"]);
  // Beams that go on, in their new order.
  const past = (name: string): Tensor =>
    ops.gatherRows(input(`past.${name}`, "float32", ["M", heads, "P", width / heads]), rows);
  const soft = input("embeddings", "float32", ["N", "Q", model.embeddingSize]);
  const ids = input("ids", "int64", ["N", "T"]);
  const { lastHiddenState, present } = model.forward({
    inputsEmbeds: ops.concat([soft, model.embed(ids)], 1),
    attentionMask: input("mask", "int64", ["N", "P+Q+T"]),
    past: Array.from({ length: depth }, (_, i) => ({ key: past(`${i}.key`), value: past(`${i}.value`) })),
  });
  const positions = ops.reshape(lastHiddenState, [ops.multiplyDims("N", "Q+T"), model.embeddingSize]);
  const wanted = ops.gatherRows(positions, input("wanted", "int64", ["R"]));
  return {
    logits: model.logits(wanted),
    states: lastHiddenState,
    ...Object.fromEntries(
      present.flatMap(({ key, value }, i) => [
        [`next.${i}.key`, key],
        [`next.${i}.value`, value],
      ]),
    ),
  };
}

/** `wanted` counts the new positions row by row. */
function promptFeeds({ embeddings, ids, mask }: Prompt, wanted: readonly number[]): HostTensors {
  const batch = mask.dims[0]!;
  const rows = int64Tensor(new BigInt64Array(batch), [batch]);
  return { embeddings, ids, mask, rows, wanted: int64Tensor(wanted, [wanted.length]) };
}

/** Frees slots; a device that has ended has freed them already. */
export async function forget(device: Device, slots: readonly string[]): Promise<void> {
  await device.drop(slots).catch(() => undefined);
}

class CachedStepper implements Stepper {
  private readonly inputs: Readonly<Record<string, string>>;
  private readonly outputs: Readonly<Record<string, string>>;
  states: readonly (readonly Float32Array[])[] | undefined;
  /** The mask of each sequence so far. */
  private masks: readonly (readonly bigint[])[] = [];
  private width = 0;

  constructor(
    private readonly device: Device,
    private readonly program: Program,
    caches: readonly string[],
    private readonly emptyCache: HostTensors,
    private readonly wantsStates: boolean,
  ) {
    const scope = `generation.${generations++}`;
    this.inputs = Object.fromEntries(caches.map((name) => [`past.${name}`, `${scope}.${name}`]));
    this.outputs = Object.fromEntries([
      ...caches.map((name) => [`next.${name}`, `${scope}.${name}`]),
      // Kept in the worker, they cost nothing.
      ...(wantsStates ? [] : [["states", `${scope}.states`]]),
    ]);
  }

  async prefill(prompt: Prompt, signal?: AbortSignal): Promise<readonly Float32Array[]> {
    const [batch, length] = prompt.mask.dims as [number, number];
    this.width = prompt.embeddings.dims[2]!;
    this.masks = Array.from({ length: batch }, (_, b) =>
      Array.from((prompt.mask.data as BigInt64Array).subarray(b * length, (b + 1) * length)),
    );
    const last = Array.from({ length: batch }, (_, b) => (b + 1) * length - 1);
    return this.run({ ...this.emptyCache, ...promptFeeds(prompt, last) }, signal);
  }

  async advance(
    parents: readonly number[],
    tokens: readonly number[],
    signal?: AbortSignal,
  ): Promise<readonly Float32Array[]> {
    const count = parents.length;
    if (count === 0 || count !== tokens.length)
      throw new InternalError("advance: needs a token for each parent");
    this.masks = parents.map((parent) => {
      const mask = this.masks[parent];
      if (mask === undefined) throw new InternalError(`advance: there is no sequence ${parent}`);
      return [...mask, 1n];
    });
    const length = this.masks[0]!.length;
    const feeds = {
      rows: int64Tensor(parents, [count]),
      embeddings: float32Tensor([], [count, 0, this.width]),
      ids: int64Tensor(tokens, [count, 1]),
      mask: int64Tensor(BigInt64Array.from(this.masks.flat()), [count, length]),
      wanted: int64Tensor(
        Array.from({ length: count }, (_, n) => n),
        [count],
      ),
    };
    return this.run(feeds, signal);
  }

  private async run(feeds: HostTensors, signal: AbortSignal | undefined): Promise<readonly Float32Array[]> {
    const { logits, states } = await this.program.run(feeds, {
      signal,
      residentInputs: this.inputs,
      residentOutputs: this.outputs,
    });
    if (this.wantsStates) this.states = this.realPositions(states!);
    const [count, vocabulary] = logits!.dims as [number, number];
    const data = logits!.data as Float32Array;
    return Array.from({ length: count }, (_, n) => data.subarray(n * vocabulary, (n + 1) * vocabulary));
  }

  /** states: [N, T', E], of the last T' positions of the masks. */
  private realPositions({ data, dims }: HostTensor): readonly (readonly Float32Array[])[] {
    const [, length, width] = dims as [number, number, number];
    return this.masks.map((mask, n) =>
      mask.slice(mask.length - length).flatMap((isReal, t) => {
        const start = (n * length + t) * width;
        return isReal === 0n ? [] : [(data as Float32Array).subarray(start, start + width)];
      }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await forget(this.device, Object.values(this.outputs));
  }
}
