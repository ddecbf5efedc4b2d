/** The models of the paper's table 2, as configs, and what the table says of their sizes. */

/** EVA-CLIP's ViT-g/14 without its last block, and CLIP's ViT-L/14 whose last block is left out when it is built. */
const vision = {
  g: { model_type: "blip_2_vision_model" },
  L: {
    model_type: "clip_vision_model",
    hidden_size: 1024,
    intermediate_size: 4096,
    num_hidden_layers: 24,
    num_attention_heads: 16,
    image_size: 224,
    patch_size: 14,
  },
} as const;

const opt = (width: number) => ({
  model_type: "opt",
  vocab_size: 50272,
  hidden_size: width,
  word_embed_proj_dim: width,
  ffn_dim: 4 * width,
  num_hidden_layers: 32,
  num_attention_heads: 32,
});

const flanT5 = (width: number, inner: number, heads: number) => ({
  model_type: "t5",
  vocab_size: 32128,
  d_model: width,
  d_kv: 64,
  d_ff: inner,
  num_layers: 24,
  num_heads: heads,
  feed_forward_proj: "gated-gelu",
  dense_act_fn: "gelu",
  tie_word_embeddings: false,
});

const languageModels = {
  "opt-2.7b": { label: "OPT-2.7B", config: opt(2560) },
  "opt-6.7b": { label: "OPT-6.7B", config: opt(4096) },
  "flan-t5-xl": { label: "FlanT5-XL", config: flanT5(2048, 5120, 32) },
  "flan-t5-xxl": { label: "FlanT5-XXL", config: flanT5(4096, 10240, 64) },
} as const;

export interface PublishedSize {
  readonly name: string;
  readonly label: string;
  readonly config: Readonly<Record<string, unknown>>;
  /** Millions that are trained in stage 2, and thousand millions in all, as the table rounds them. */
  readonly paper: { readonly trainable: number; readonly all: number };
}

const size = (
  encoder: keyof typeof vision,
  language: keyof typeof languageModels,
  trainable: number,
  all: number,
): PublishedSize => {
  const { label, config } = languageModels[language];
  return {
    name: `vit-${encoder.toLowerCase()}-${language}`,
    label: `ViT-${encoder}, ${label}`,
    config: {
      model_type: "blip-2",
      vision_config: vision[encoder],
      text_config: config,
      use_decoder_only_language_model: config.model_type === "opt",
    },
    paper: { trainable, all },
  };
};

export const publishedSizes: readonly PublishedSize[] = [
  size("L", "opt-2.7b", 104, 3.1),
  size("g", "opt-2.7b", 107, 3.8),
  size("g", "opt-6.7b", 108, 7.8),
  size("L", "flan-t5-xl", 103, 3.4),
  size("g", "flan-t5-xl", 107, 4.1),
  size("g", "flan-t5-xxl", 108, 12.1),
];

/** Of bert-base-uncased with [DEC], and the published width of the shared space. */
export const publishedTextSide = { vocabulary: 30523, sharedSize: 256 } as const;
