/** The files of a tokenizer that was built here: contents by file name, objects to be stored as JSON. */
export interface TokenizerFiles {
  readonly "tokenizer.json": Record<string, unknown>;
  readonly "tokenizer_config.json": Record<string, unknown>;
  readonly "special_tokens_map.json": Record<string, unknown>;
  readonly [name: string]: Record<string, unknown> | string;
}
