/** The part of the ONNX file format (onnx.proto3, IR version 10) that the emitter writes. */
import protobuf from "protobufjs/light.js";

const repeated = "repeated";

const root = protobuf.Root.fromJSON({
  nested: {
    StringStringEntryProto: { fields: { key: { type: "string", id: 1 }, value: { type: "string", id: 2 } } },
    TensorProto: {
      fields: {
        dims: { rule: repeated, type: "int64", id: 1 },
        dataType: { type: "int32", id: 2 },
        name: { type: "string", id: 8 },
        rawData: { type: "bytes", id: 9 },
        externalData: { rule: repeated, type: "StringStringEntryProto", id: 13 },
        dataLocation: { type: "int32", id: 14 },
      },
    },
    AttributeProto: {
      fields: {
        name: { type: "string", id: 1 },
        f: { type: "float", id: 2 },
        i: { type: "int64", id: 3 },
        s: { type: "bytes", id: 4 },
        t: { type: "TensorProto", id: 5 },
        floats: { rule: repeated, type: "float", id: 7 },
        ints: { rule: repeated, type: "int64", id: 8 },
        type: { type: "int32", id: 20 },
      },
    },
    NodeProto: {
      fields: {
        input: { rule: repeated, type: "string", id: 1 },
        output: { rule: repeated, type: "string", id: 2 },
        name: { type: "string", id: 3 },
        opType: { type: "string", id: 4 },
        attribute: { rule: repeated, type: "AttributeProto", id: 5 },
        domain: { type: "string", id: 7 },
      },
    },
    Dimension: { fields: { dimValue: { type: "int64", id: 1 }, dimParam: { type: "string", id: 2 } } },
    TensorShapeProto: { fields: { dim: { rule: repeated, type: "Dimension", id: 1 } } },
    TensorTypeProto: {
      fields: { elemType: { type: "int32", id: 1 }, shape: { type: "TensorShapeProto", id: 2 } },
    },
    SequenceTypeProto: { fields: { elemType: { type: "TypeProto", id: 1 } } },
    TypeProto: {
      fields: {
        tensorType: { type: "TensorTypeProto", id: 1 },
        sequenceType: { type: "SequenceTypeProto", id: 4 },
      },
    },
    ValueInfoProto: { fields: { name: { type: "string", id: 1 }, type: { type: "TypeProto", id: 2 } } },
    GraphProto: {
      fields: {
        node: { rule: repeated, type: "NodeProto", id: 1 },
        name: { type: "string", id: 2 },
        initializer: { rule: repeated, type: "TensorProto", id: 5 },
        input: { rule: repeated, type: "ValueInfoProto", id: 11 },
        output: { rule: repeated, type: "ValueInfoProto", id: 12 },
      },
    },
    OperatorSetIdProto: { fields: { domain: { type: "string", id: 1 }, version: { type: "int64", id: 2 } } },
    ModelProto: {
      fields: {
        irVersion: { type: "int64", id: 1 },
        producerName: { type: "string", id: 2 },
        graph: { type: "GraphProto", id: 7 },
        opsetImport: { rule: repeated, type: "OperatorSetIdProto", id: 8 },
      },
    },
  },
});

export interface OnnxTensor {
  readonly name: string;
  readonly dims: readonly number[];
  readonly dataType: number;
  readonly rawData?: Uint8Array;
  /** Where the bytes lie instead: `location` (a name in the model's folder), `offset` and `length`. */
  readonly externalData?: readonly { readonly key: string; readonly value: string }[];
  readonly dataLocation?: number;
}

/** TensorProto.DataLocation.EXTERNAL */
export const externalLocation = 1;

/** AttributeProto.AttributeType. */
export const attributeType = { float: 1, int: 2, string: 3, tensor: 4, floats: 6, ints: 7 } as const;

export interface OnnxAttributeRecord {
  readonly name: string;
  readonly type: number;
  readonly f?: number;
  readonly i?: number;
  readonly s?: Uint8Array;
  readonly t?: OnnxTensor;
  readonly ints?: readonly number[];
}

export interface OnnxNode {
  readonly opType: string;
  readonly input: readonly string[];
  readonly output: readonly string[];
  readonly name: string;
  readonly domain: string;
  readonly attribute: readonly OnnxAttributeRecord[];
}

interface OnnxTensorType {
  readonly tensorType: {
    readonly elemType: number;
    readonly shape: {
      readonly dim: readonly ({ readonly dimValue: number } | { readonly dimParam: string })[];
    };
  };
}

export interface OnnxValueInfo {
  readonly name: string;
  readonly type: OnnxTensorType | { readonly sequenceType: { readonly elemType: OnnxTensorType } };
}

export interface OnnxModel {
  readonly irVersion: number;
  readonly producerName: string;
  readonly opsetImport: readonly { readonly domain: string; readonly version: number }[];
  readonly graph: {
    readonly name: string;
    readonly node: readonly OnnxNode[];
    readonly initializer: readonly OnnxTensor[];
    readonly input: readonly OnnxValueInfo[];
    readonly output: readonly OnnxValueInfo[];
  };
}

/** The bytes of an ONNX file. */
export function encodeModel(model: OnnxModel): Uint8Array {
  const type = root.lookupType("ModelProto");
  return type.encode(type.fromObject({ ...model })).finish();
}
