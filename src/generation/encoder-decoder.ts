/**
 * An encoder-decoder language model, as two programs: the encoder reads soft prompt and text once and leaves what
 * the decoder's layers look at in the worker; the decoder reads its cache of P positions and T tokens, and yields
 * logits where the caller wants them. Both look words up in the table where it lies: mapped from its file it is in memory
 * once; only a tied head, and a table that cannot be mapped, is a copy of its own.
 *
 * Shapes: B prompts, Q soft positions, L text positions, S = Q + L; N sequences, M sequences of the run before,
 * T new tokens, R wanted positions, E width, V vocabulary, H heads, K head size.
 */
import {
  addDims,
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
import type { EncoderDecoder as EncoderDecoderModel } from "../models/language/language-model.js";
import type { KeyValues } from "../nn/attention.js";
import { cacheNames } from "./decoder.js";
import type { Prompt, Stepper, StepperOptions } from "./search/stepper.js";

/** What a decoder is given at once: int64 [B, T] both. */
export interface DecoderInputs {
  readonly ids: HostTensor;
  /** 1 for real positions. */
  readonly mask: HostTensor;
}

export class EncoderDecoder {
  readonly kind = "encoder-decoder";
  /** Positions are relative: there is no longest sequence. */
  readonly maximumLength = Infinity;
  private readonly names: readonly string[];

  private constructor(
    private readonly device: Device,
    private readonly encoder: Program,
    private readonly decoder: Program,
    private readonly model: EncoderDecoderModel,
  ) {
    this.names = cacheNames(model.cache.layers);
  }

  /** @param weights of `model`, by checkpoint name. */
  static async compile(
    device: Device,
    model: EncoderDecoderModel,
    weights: FrozenWeights,
    onNotice?: (notice: string) => void,
  ): Promise<EncoderDecoder> {
    const options = { weights, onNotice };
    const encoder = await device.compile(encoderGraph(model), options);
    return new EncoderDecoder(device, encoder, await device.compile(decoderGraph(model), options), model);
  }

  /** Width of words and soft positions. */
  get embeddingSize(): number {
    return this.model.embeddingSize;
  }

  /** Sizes of the cache. */
  get cache(): EncoderDecoderModel["cache"] {
    return this.model.cache;
  }

  /** Starts a generation. It yields no hidden states, also where they are wanted. */
  begin(_options?: StepperOptions): Stepper {
    return new EncoderDecoderStepper(this.device, this.encoder, this.decoder, this.names, this.emptyCache());
  }

  /** Logits of every position of the decoder's inputs, nothing kept. -> float32 [B, T, V]. */
  async forward(prompt: Prompt, { ids, mask }: DecoderInputs, signal?: AbortSignal): Promise<HostTensor> {
    const [batch, length] = ids.dims as [number, number];
    await using seenSlots = this.device.slots();
    await using cacheSlots = this.device.slots();
    const seen = seenSlots.bind(this.names, "seen");
    await encode(this.encoder, prompt, seen, signal);
    const feeds = {
      ...this.emptyCache(),
      ids,
      mask,
      encoder_mask: prompt.mask,
      rows: int64Tensor(new BigInt64Array(batch), [batch]),
      owners: counting(batch),
      wanted: counting(batch * length),
    };
    const { logits } = await this.decoder.run(feeds, {
      signal,
      residentInputs: seen,
      residentOutputs: cacheSlots.bind(this.names, "next"),
    });
    return { ...logits!, dims: [batch, length, logits!.dims[1]!] };
  }

  private emptyCache(): HostTensors {
    const { heads, headSize: size } = this.model.cache;
    const empty = float32Tensor([], [1, heads, 0, size]);
    return Object.fromEntries(this.names.map((name) => [`past.${name}`, empty]));
  }
}

/** 0, 1, ... as int64 [count]. */
function counting(count: number): HostTensor {
  return int64Tensor(
    Array.from({ length: count }, (_, i) => i),
    [count],
  );
}

const named = (prefix: string, layers: readonly KeyValues[]): Record<string, Tensor> =>
  Object.fromEntries(
    layers.flatMap(({ key, value }, i) => [
      [`${prefix}.${i}.key`, key],
      [`${prefix}.${i}.value`, value],
    ]),
  );

function encoderGraph(model: EncoderDecoderModel): Record<string, Tensor> {
  const soft = input("embeddings", "float32", ["B", "Q", model.embeddingSize]);
  const encoded = model.encode({
    inputsEmbeds: ops.concat([soft, model.embed(input("ids", "int64", ["B", "L"]))], 1),
    attentionMask: input("mask", "int64", ["B", addDims("L", "Q")]),
  });
  return named("seen", model.encoderKeyValues(encoded));
}

function decoderGraph(model: EncoderDecoderModel): Record<string, Tensor> {
  const { layers: depth, heads, headSize: size } = model.cache;
  // Beams that go on, in their new order, and for each the prompt that it belongs to.
  const rows = input("rows", "int64", ["N"]);
  const owners = input("owners", "int64", ["N"]);
  const layers = (of: (name: string) => Tensor): KeyValues[] =>
    Array.from({ length: depth }, (_, i) => ({ key: of(`${i}.key`), value: of(`${i}.value`) }));
  const past = (name: string): Tensor =>
    ops.gatherRows(input(`past.${name}`, "float32", ["M", heads, "P", size]), rows);
  const seen = (name: string): Tensor =>
    ops.gatherRows(input(`seen.${name}`, "float32", ["B", heads, "S", size]), owners);
  const { lastHiddenState, present } = model.decode({
    inputsEmbeds: model.embed(input("ids", "int64", ["N", "T"])),
    attentionMask: input("mask", "int64", ["N", addDims("P", "T")]),
    encoder: layers(seen),
    encoderMask: ops.gatherRows(input("encoder_mask", "int64", ["B", "S"]), owners),
    past: layers(past),
  });
  const positions = ops.reshape(lastHiddenState, [ops.multiplyDims("N", "T"), model.embeddingSize]);
  const wanted = ops.gatherRows(positions, input("wanted", "int64", ["R"]));
  return { logits: model.logits(wanted), ...named("next", present) };
}

/** Leaves what the decoder's layers look at in `slots`. */
async function encode(
  encoder: Program,
  { embeddings, ids, mask }: Prompt,
  slots: Slots,
  signal: AbortSignal | undefined,
): Promise<void> {
  await encoder.run({ embeddings, ids, mask }, { signal, residentOutputs: slots });
}

class EncoderDecoderStepper implements Stepper {
  private readonly slots: { readonly seen: OwnSlots; readonly cache: OwnSlots };
  private readonly seen: Slots;
  private readonly inputs: Slots;
  private readonly outputs: Slots;
  /** The prompt of each running sequence. */
  private owners: readonly number[] = [];
  private encoderMask: HostTensor | undefined;
  /** Tokens that each sequence has read, the start included. */
  private length = 0;

  constructor(
    device: Device,
    private readonly encoder: Program,
    private readonly decoder: Program,
    names: readonly string[],
    private readonly emptyCache: HostTensors,
  ) {
    this.slots = { seen: device.slots(), cache: device.slots() };
    this.seen = this.slots.seen.bind(names, "seen");
    this.inputs = this.slots.cache.bind(names, "past");
    this.outputs = this.slots.cache.bind(names, "next");
  }

  async prefill(prompt: Prompt, signal?: AbortSignal): Promise<readonly Float32Array[]> {
    const { decoderStartId: start } = prompt;
    if (start === undefined) throw new InternalError("prefill: an encoder-decoder needs decoderStartId");
    const batch = prompt.mask.dims[0]!;
    await encode(this.encoder, prompt, this.seen, signal);
    this.encoderMask = prompt.mask;
    this.owners = Array.from({ length: batch }, (_, b) => b);
    this.length = 0;
    const rows = Array<number>(batch).fill(0);
    return this.run(rows, Array<number>(batch).fill(start), this.emptyCache, signal);
  }

  async advance(
    parents: readonly number[],
    tokens: readonly number[],
    signal?: AbortSignal,
  ): Promise<readonly Float32Array[]> {
    if (parents.length === 0 || parents.length !== tokens.length)
      throw new InternalError("advance: needs a token for each parent");
    this.owners = parents.map((parent) => {
      const owner = this.owners[parent];
      if (owner === undefined) throw new InternalError(`advance: there is no sequence ${parent}`);
      return owner;
    });
    return this.run(parents, tokens, {}, signal);
  }

  private async run(
    rows: readonly number[],
    tokens: readonly number[],
    cache: HostTensors,
    signal: AbortSignal | undefined,
  ): Promise<readonly Float32Array[]> {
    const count = rows.length;
    this.length++;
    const feeds = {
      ...cache,
      rows: int64Tensor(rows, [count]),
      owners: int64Tensor(this.owners, [count]),
      encoder_mask: this.encoderMask!,
      ids: int64Tensor(tokens, [count, 1]),
      mask: int64Tensor(new BigInt64Array(count * this.length).fill(1n), [count, this.length]),
      wanted: counting(count),
    };
    const { logits } = await this.decoder.run(feeds, {
      signal,
      residentInputs: { ...this.seen, ...this.inputs },
      residentOutputs: this.outputs,
    });
    const vocabulary = logits!.dims[1]!;
    const data = logits!.data as Float32Array;
    return Array.from({ length: count }, (_, n) => data.subarray(n * vocabulary, (n + 1) * vocabulary));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.slots.seen[Symbol.asyncDispose]();
    await this.slots.cache[Symbol.asyncDispose]();
  }
}
