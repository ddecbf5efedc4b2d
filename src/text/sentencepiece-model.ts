/** The parts of a sentencepiece model file (`sentencepiece_model.proto`) that a unigram tokenizer is made of. */
import protobuf from "protobufjs/light.js";
import { UserError } from "../errors.js";

const root = protobuf.Root.fromJSON({
  nested: {
    Piece: {
      fields: {
        piece: { type: "string", id: 1 },
        score: { type: "float", id: 2 },
        type: { type: "int32", id: 3, options: { default: 1 } },
      },
    },
    TrainerSpec: {
      fields: {
        modelType: { type: "int32", id: 3, options: { default: 1 } },
        byteFallback: { type: "bool", id: 35 },
        unkId: { type: "int32", id: 40 },
      },
    },
    NormalizerSpec: { fields: { precompiledCharsmap: { type: "bytes", id: 2 } } },
    ModelProto: {
      fields: {
        pieces: { rule: "repeated", type: "Piece", id: 1 },
        trainerSpec: { type: "TrainerSpec", id: 2 },
        normalizerSpec: { type: "NormalizerSpec", id: 3 },
      },
    },
  },
});

export const pieceType = { control: 3, userDefined: 4 } as const;

export interface SentencePieceModel {
  /** In the order of their ids. */
  readonly pieces: readonly { readonly piece: string; readonly score: number; readonly type: number }[];
  readonly unkId: number;
  /** Empty if texts are not changed. See precompiled-charsmap.ts. */
  readonly charsmap: Uint8Array;
}

/** Published models have at most a million. */
const mostPieces = 1_000_000;

/** Throws `UserError` for more pieces than are read, before there is an object for each. */
function mustBeModest(bytes: Uint8Array, where: string): void {
  const reader = protobuf.Reader.create(bytes);
  let pieces = 0;
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag >>> 3 === 1 && ++pieces > mostPieces) {
      throw new UserError(`${where}: has more than ${mostPieces} pieces`);
    }
    reader.skipType(tag & 7);
  }
}

/** Throws `UserError`, naming the file, for what is no sentencepiece model or no unigram one. */
export function readSentencePieceModel(bytes: Uint8Array, where: string): SentencePieceModel {
  let model: {
    pieces?: { piece: string; score: number; type: number }[];
    trainerSpec?: { modelType: number; byteFallback: boolean; unkId: number } | null;
    normalizerSpec?: { precompiledCharsmap: Uint8Array } | null;
  };
  try {
    mustBeModest(bytes, where);
    model = root.lookupType("ModelProto").decode(bytes) as typeof model;
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw new UserError(`${where}: is no sentencepiece model (${(cause as Error).message})`, { cause });
  }
  const { pieces = [], trainerSpec, normalizerSpec } = model;
  const { modelType = 1, byteFallback = false, unkId = 0 } = trainerSpec ?? {};
  if (pieces.length === 0 || pieces[unkId] === undefined) {
    throw new UserError(
      `${where}: a sentencepiece model with an unknown token is required, got ${pieces.length} pieces and ${unkId} as its id`,
    );
  }
  if (modelType !== 1 || byteFallback) {
    const got = byteFallback ? "byte fallback" : `model type ${modelType}`;
    throw new UserError(
      `${where}: a unigram model (type 1) without byte fallback is required, as T5's, got ${got}; a tokenizer.json beside it would be used instead`,
    );
  }
  return { pieces, unkId, charsmap: normalizerSpec?.precompiledCharsmap ?? new Uint8Array() };
}
