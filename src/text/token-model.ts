/** What every `model` of a tokenizer.json can do. */
export interface TokenModel {
  /** Ids by token, without added tokens. */
  readonly vocabulary: ReadonlyMap<string, number>;
  /** Appends the ids of one piece to `ids`. */
  encode(piece: string, ids: number[]): void;
}
