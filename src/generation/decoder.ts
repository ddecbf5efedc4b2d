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
  type OwnSlots,
  type Program,
  type Slots,
  type Tensor,
  type FrozenWeights,
} from "../engine/index.js";
import { InternalError } from "../errors.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../host-tensor.js";
import type { DecoderOnly } from "../models/language/language-model.js";
import type { Prompt, Stepper, StepperOptions } from "./search/stepper.js";

/** A cache's tensors, by layer. */
export const cacheNames = (depth: number): string[] =>
  Array.from({ length: depth }, (_, i) => [`${i}.key`, `${i}.value`]).flat();

export class Decoder {
  readonly kind = "decoder-only";
  private readonly caches: readonly string[];

  private constructor(
    private readonly device: Device,
    private readonly program: Program,
    private readonly model: DecoderOnly,
  ) {
    this.caches = cacheNames(model.cache.layers);
  }

  /** @param weights of `model`, by checkpoint name. */
  static async compile(
    device: Device,
    model: DecoderOnly,
    weights: FrozenWeights,
    onNotice?: (notice: string) => void,
  ): Promise<Decoder> {
    return new Decoder(device, await device.compile(graph(model), { weights, onNotice }), model);
  }

  /** The longest sequence that the model has positions for. */
  get maximumLength(): number {
    return this.model.maximumLength;
  }

  /** Width of words and soft positions. */
  get embeddingSize(): number {
    return this.model.embeddingSize;
  }

  /** Sizes of the cache. */
  get cache(): DecoderOnly["cache"] {
    return this.model.cache;
  }

  /** Starts a generation with an empty cache. */
  begin({ states = false }: StepperOptions = {}): Stepper {
    return new CachedStepper(this.device, this.program, this.caches, this.emptyCache(), states);
  }

  /** Logits of every position of a prompt, nothing kept. -> float32 [N, Q + T, V]. */
  async forward(prompt: Prompt, signal?: AbortSignal): Promise<HostTensor> {
    const [batch, length] = prompt.mask.dims as [number, number];
    await using slots = this.device.slots();
    const residentOutputs = { ...slots.bind(this.caches, "next"), ...slots.bind(["states"]) };
    const wanted = Array.from({ length: batch * length }, (_, i) => i);
    const feeds = { ...this.emptyCache(), ...promptFeeds(prompt, wanted) };
    const { logits } = await this.program.run(feeds, { signal, residentOutputs });
    return { ...logits!, dims: [batch, length, logits!.dims[1]!] };
  }

  private emptyCache(): HostTensors {
    const { heads, headSize } = this.model.cache;
    const empty = float32Tensor([], [1, heads, 0, headSize]);
    return Object.fromEntries(this.caches.map((name) => [`past.${name}`, empty]));
  }
}

function graph(model: DecoderOnly): Record<string, Tensor> {
  const { layers, heads, headSize } = model.cache;
  const rows = input("rows", "int64", ["N"]);
  // Beams that go on, in their new order.
  const past = (name: string): Tensor =>
    ops.gatherRows(input(`past.${name}`, "float32", ["M", heads, "P", headSize]), rows);
  const soft = input("embeddings", "float32", ["N", "Q", model.embeddingSize]);
  const ids = input("ids", "int64", ["N", "T"]);
  const { lastHiddenState, present } = model.forward({
    inputsEmbeds: ops.concat([soft, model.embed(ids)], 1),
    attentionMask: input("mask", "int64", ["N", "P+Q+T"]),
    past: Array.from({ length: layers }, (_, i) => ({ key: past(`${i}.key`), value: past(`${i}.value`) })),
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

class CachedStepper implements Stepper {
  private readonly slots: OwnSlots;
  private readonly inputs: Slots;
  private readonly outputs: Slots;
  states: readonly (readonly Float32Array[])[] | undefined;
  /** The mask of each sequence so far. */
  private masks: readonly (readonly bigint[])[] = [];
  private width = 0;

  constructor(
    device: Device,
    private readonly program: Program,
    caches: readonly string[],
    private readonly emptyCache: HostTensors,
    private readonly wantsStates: boolean,
  ) {
    this.slots = device.slots();
    this.inputs = this.slots.bind(caches, "past");
    // States that nobody wants cost nothing where they are kept in the worker.
    const unwanted = wantsStates ? [] : ["states"];
    this.outputs = { ...this.slots.bind(caches, "next"), ...this.slots.bind(unwanted) };
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
    await this.slots[Symbol.asyncDispose]();
  }
}
