"""The Q-Former and the stage-1 losses of BLIP-2 in plain PyTorch, written from the published description.

No file is made here: stages.py checks this code against transformers and writes golden files with it, and
bench_training_step.py times it. Parameters live in a dict under the checkpoint names of transformers'
Blip2ForImageTextRetrieval, plus `temp` and the language-model head `cls.predictions.*`, whose decoder is the word
table. Dropout is 0 throughout.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Config:
    image_width: int
    hidden: int
    layers: int
    heads: int
    ffn: int
    queries: int
    cross_attention_frequency: int
    vocab: int
    projection: int
    positions: int
    itm_outputs: int = 2  # 2: two-class head; 1: one logit
    text: bool = True  # False: only the query side, as in stage 2
    layer_norm_eps: float = 1e-12
    post_layernorm_eps: float = 1e-5

    @property
    def decoder_start(self) -> int:
        """[DEC] is the last row of the word table."""
        return self.vocab - 1


PAD = 0


def shapes(c: Config) -> dict[str, tuple]:
    """Name and shape of every trained parameter."""
    found: dict[str, tuple] = {"query_tokens": (1, c.queries, c.hidden)}

    def linear(name, inner, outer):
        found[f"{name}.weight"], found[f"{name}.bias"] = (outer, inner), (outer,)

    def norm(name, width):
        found[f"{name}.weight"], found[f"{name}.bias"] = (width,), (width,)

    norm("vision_model.post_layernorm", c.image_width)
    norm("qformer.layernorm", c.hidden)
    for i in range(c.layers):
        layer = f"qformer.encoder.layer.{i}"
        blocks = [("attention", c.hidden)]
        if i % c.cross_attention_frequency == 0:
            blocks.append(("crossattention", c.image_width))
        for block, key_width in blocks:
            linear(f"{layer}.{block}.attention.query", c.hidden, c.hidden)
            linear(f"{layer}.{block}.attention.key", key_width, c.hidden)
            linear(f"{layer}.{block}.attention.value", key_width, c.hidden)
            linear(f"{layer}.{block}.output.dense", c.hidden, c.hidden)
            norm(f"{layer}.{block}.output.LayerNorm", c.hidden)
        for suffix in ["_query", ""] if c.text else ["_query"]:
            linear(f"{layer}.intermediate{suffix}.dense", c.hidden, c.ffn)
            linear(f"{layer}.output{suffix}.dense", c.ffn, c.hidden)
            norm(f"{layer}.output{suffix}.LayerNorm", c.hidden)
    if c.text:
        found["embeddings.word_embeddings.weight"] = (c.vocab, c.hidden)
        found["embeddings.position_embeddings.weight"] = (c.positions, c.hidden)
        linear("vision_projection", c.hidden, c.projection)
        linear("text_projection", c.hidden, c.projection)
        linear("itm_head", c.hidden, c.itm_outputs)
        linear("cls.predictions.transform.dense", c.hidden, c.hidden)
        norm("cls.predictions.transform.LayerNorm", c.hidden)
        found["cls.predictions.bias"] = (c.vocab,)
        found["temp"] = ()
    return found


class Stage1:
    def __init__(self, config: Config, weights: dict[str, torch.Tensor]):
        self.c, self.w = config, weights

    def linear(self, name, x):
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name, x, eps=None):
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.c.layer_norm_eps if eps is None else eps)

    def heads(self, x):
        return x.unflatten(-1, (self.c.heads, -1)).transpose(1, 2)

    def attend(self, name, x, keys_from, mask=None, cached=None):
        """Attention of x over keys_from, behind the cached keys if any; gives the block's output and its own keys."""
        query = self.heads(self.linear(f"{name}.attention.query", x))
        own = [self.heads(self.linear(f"{name}.attention.{part}", keys_from)) for part in ("key", "value")]
        key, value = own if cached is None else [torch.cat(pair, dim=2) for pair in zip(cached, own)]
        added = None if mask is None else ((1 - mask) * -10000.0).to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=added)
        mixed = mixed.transpose(1, 2).flatten(2)
        return self.norm(f"{name}.output.LayerNorm", x + self.linear(f"{name}.output.dense", mixed)), own

    def feed_forward(self, layer, suffix, x):
        inner = F.gelu(self.linear(f"{layer}.intermediate{suffix}.dense", x))
        return self.norm(f"{layer}.output{suffix}.LayerNorm", x + self.linear(f"{layer}.output{suffix}.dense", inner))

    def embed(self, ids):
        positions = self.w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        return F.embedding(ids, self.w["embeddings.word_embeddings.weight"]) + positions

    def run(self, queries=None, ids=None, image=None, mask=None, cached=None):
        """One pass of the Q-Former over queries, text or both.

        mask: 1 where a key may be seen, of shape [B, keys] or [B, rows, keys]; None shows everything.
        cached: keys and values per layer that stand in front of the own ones.
        """
        parts = [part for part in (queries, None if ids is None else self.embed(ids)) if part is not None]
        x = self.norm("qformer.layernorm", torch.cat(parts, dim=1))
        count = 0 if queries is None else queries.shape[1]
        if mask is not None:
            mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
        kept = []
        for i in range(self.c.layers):
            layer = f"qformer.encoder.layer.{i}"
            x, own = self.attend(f"{layer}.attention", x, x, mask, None if cached is None else cached[i])
            kept.append(own)
            outputs = []
            if count:
                front = x[:, :count]
                if i % self.c.cross_attention_frequency == 0:
                    front, _ = self.attend(f"{layer}.crossattention", front, image)
                outputs.append(self.feed_forward(layer, "_query", front))
            if x.shape[1] > count:
                outputs.append(self.feed_forward(layer, "", x[:, count:]))
            x = torch.cat(outputs, dim=1)
        return x, kept

    def image_tokens(self, image_features):
        return self.norm("vision_model.post_layernorm", image_features, self.c.post_layernorm_eps)

    def queries(self, batch):
        return self.w["query_tokens"].expand(batch, -1, -1)

    def predict(self, x):
        """Language-model head; the decoder is the word table."""
        x = self.norm("cls.predictions.transform.LayerNorm", F.gelu(self.linear("cls.predictions.transform.dense", x)))
        return F.linear(x, self.w["embeddings.word_embeddings.weight"], self.w["cls.predictions.bias"])

    def caption_ids(self, ids):
        """The text as the decoder reads it: [DEC] in place of [CLS]."""
        return torch.cat([torch.full_like(ids[:, :1], self.c.decoder_start), ids[:, 1:]], dim=1)

    def losses(self, image_features, ids, mask, negative_images, negative_texts, *, detach=True, image_ids=None):
        """All three losses and what is worth comparing on the way.

        negative_images[b]: the image that text b is paired with as a negative; None with the one-logit head.
        negative_texts[b]: the text that image b is paired with as a negative.
        """
        batch, length = ids.shape
        image = self.image_tokens(image_features)
        mask = mask.to(image.dtype)
        query_hidden, query_keys = self.run(queries=self.queries(batch), image=image)
        text_hidden, _ = self.run(ids=ids, mask=mask)

        # Contrastive loss.
        image_vectors = F.normalize(self.linear("vision_projection", query_hidden), dim=-1)
        text_vectors = F.normalize(self.linear("text_projection", text_hidden[:, 0]), dim=-1)
        all_images, all_texts = image_vectors, text_vectors
        if detach:
            all_images, all_texts = image_vectors.detach(), text_vectors.detach()
        temp = self.w["temp"]
        i2t = torch.einsum("bqd,jd->bqj", image_vectors, all_texts).amax(1) / temp
        t2i = torch.einsum("bd,jqd->bqj", text_vectors, all_images).amax(1) / temp
        if image_ids is None:
            targets = torch.arange(batch)
            itc = sum(F.cross_entropy(sim, targets, label_smoothing=0.1) for sim in (i2t, t2i)) / 2
            own = torch.eye(batch, dtype=torch.bool)
        else:
            own = image_ids[:, None] == image_ids[None, :]
            soft = 0.9 * own / own.sum(1, keepdim=True) + 0.1 / batch
            itc = sum(-(soft * F.log_softmax(sim, dim=1)).sum(1).mean() for sim in (i2t, t2i)) / 2
        with torch.no_grad():
            weights_i2t, weights_t2i = (F.softmax(sim.masked_fill(own, -10000.0), dim=1) for sim in (i2t, t2i))

        # Matching loss. Pairs: own image and text, (negative image and own text), own image and negative text.
        two_classes = self.c.itm_outputs == 2
        if two_classes:
            pair_images = torch.cat([image, image[negative_images], image])
            pair_texts = torch.cat([torch.arange(batch), torch.arange(batch), negative_texts])
        else:
            pair_images = torch.cat([image, image])
            pair_texts = torch.cat([torch.arange(batch), negative_texts])
        pairs = len(pair_texts)
        seen = torch.cat([torch.ones(pairs, self.c.queries), mask[pair_texts]], dim=1)
        joint, _ = self.run(queries=self.queries(pairs), ids=ids[pair_texts], image=pair_images, mask=seen)
        itm_logits = self.linear("itm_head", joint[:, : self.c.queries]).mean(1)
        matches = (torch.arange(pairs) < batch).long()
        if two_classes:
            itm = F.cross_entropy(itm_logits, matches)
        else:
            itm = F.binary_cross_entropy_with_logits(itm_logits[:, 0], matches.to(itm_logits.dtype))

        # Captioning loss: text rows see the queries' cached keys and the text so far.
        caption = self.caption_ids(ids)
        text_part = torch.ones(length, length).tril()[None] * mask[:, None, :]
        seen = torch.cat([torch.ones(batch, length, self.c.queries), text_part], dim=2)
        caption_hidden, _ = self.run(ids=caption, mask=seen, cached=query_keys)
        itg_logits = self.predict(caption_hidden)
        labels = caption.masked_fill(caption == PAD, -100)
        itg = F.cross_entropy(
            itg_logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, label_smoothing=0.1
        )
        return {
            "itc": itc,
            "itm": itm,
            "itg": itg,
            "total": itc + itm + itg,
            "sim_i2t": i2t,
            "sim_t2i": t2i,
            "weights_i2t": weights_i2t,
            "weights_t2i": weights_t2i,
            "query_hidden": query_hidden,
            "text_hidden": text_hidden,
            "image_embeds": image_vectors,
            "text_embeds": text_vectors,
            "itm_hidden": joint,
            "itm_logits": itm_logits,
            "itg_logits": itg_logits,
        }

    def one_run_caption_logits(self, image_features, ids, mask):
        """The captioning logits by one joint run: queries see only queries, text sees queries and the text so far."""
        batch, length = ids.shape
        count = self.c.queries
        seen = torch.zeros(batch, count + length, count + length)
        seen[:, :, :count] = 1
        seen[:, count:, count:] = torch.ones(length, length).tril()[None] * mask[:, None, :]
        joint, _ = self.run(
            queries=self.queries(batch), ids=self.caption_ids(ids), image=self.image_tokens(image_features), mask=seen
        )
        return self.predict(joint[:, count:])


@dataclass
class OptConfig:
    vocab: int
    hidden: int
    layers: int
    heads: int
    ffn: int
    positions: int
    pre_norm: bool = True


def opt_shapes(c: OptConfig, prefix: str) -> dict[str, tuple]:
    """Names and shapes of the OPT decoder; its output matrix is the token table."""
    found = {
        f"{prefix}.embed_tokens.weight": (c.vocab, c.hidden),
        f"{prefix}.embed_positions.weight": (c.positions + 2, c.hidden),
    }
    norms = [f"{prefix}.layers.{i}.{norm}" for i in range(c.layers) for norm in ("self_attn_layer_norm", "final_layer_norm")]
    if c.pre_norm:
        norms.append(f"{prefix}.final_layer_norm")
    for name in norms:
        found[f"{name}.weight"], found[f"{name}.bias"] = (c.hidden,), (c.hidden,)
    for i in range(c.layers):
        matrices = {f"self_attn.{part}_proj": (c.hidden, c.hidden) for part in ("q", "k", "v", "out")}
        matrices |= {"fc1": (c.ffn, c.hidden), "fc2": (c.hidden, c.ffn)}
        for name, shape in matrices.items():
            found[f"{prefix}.layers.{i}.{name}.weight"] = shape
            found[f"{prefix}.layers.{i}.{name}.bias"] = shape[:1]
    return found


class Opt:
    def __init__(self, config: OptConfig, weights: dict[str, torch.Tensor], prefix: str):
        self.c, self.w, self.prefix = config, weights, prefix

    def linear(self, name, x):
        return F.linear(x, self.w[f"{self.prefix}.{name}.weight"], self.w[f"{self.prefix}.{name}.bias"])

    def norm(self, name, x):
        weight, bias = self.w[f"{self.prefix}.{name}.weight"], self.w[f"{self.prefix}.{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, 1e-5)

    def embed(self, ids):
        return F.embedding(ids, self.w[f"{self.prefix}.embed_tokens.weight"])

    def logits(self, embeds, mask):
        """Positions count the visible slots; row 2 of the table is the first, row 1 belongs to padding."""
        positions = mask.cumsum(1) * mask - 1 + 2
        x = embeds + F.embedding(positions, self.w[f"{self.prefix}.embed_positions.weight"])
        length, heads = embeds.shape[1], self.c.heads
        hidden = torch.ones(length, length).triu(1).bool()[None, None] | (mask[:, None, None, :] == 0)
        scale = 1 / math.sqrt(self.c.hidden // heads)
        for i in range(self.c.layers):
            layer = f"layers.{i}"
            y = self.norm(f"{layer}.self_attn_layer_norm", x) if self.c.pre_norm else x
            query, key, value = (
                self.linear(f"{layer}.self_attn.{part}_proj", y).unflatten(-1, (heads, -1)).transpose(1, 2)
                for part in ("q", "k", "v")
            )
            scores = (query * scale) @ key.mT
            scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
            mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
            x = x + self.linear(f"{layer}.self_attn.out_proj", mixed)
            if not self.c.pre_norm:
                x = self.norm(f"{layer}.self_attn_layer_norm", x)
            y = self.norm(f"{layer}.final_layer_norm", x) if self.c.pre_norm else x
            x = x + self.linear(f"{layer}.fc2", F.relu(self.linear(f"{layer}.fc1", y)))
            if not self.c.pre_norm:
                x = self.norm(f"{layer}.final_layer_norm", x)
        if self.c.pre_norm:
            x = self.norm("final_layer_norm", x)
        return F.linear(x, self.w[f"{self.prefix}.embed_tokens.weight"])
