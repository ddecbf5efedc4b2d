"""Golden files of T5, alone and in BLIP-2, made with transformers: test/golden/t5/<case>.safetensors and .json.

Cases: buckets, t5-{1..4} and blip2-t5-{1,2,3}. Weights, names and the rules for generated ids are those of models.py.
"""

import sys
import warnings
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, so that no file of this folder hides a package

import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration, T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.utils import logging

from reference.common import clear, generator, prepare, randomize, write_case
from reference.models import choose_eos, first_stable, generate_all, images, reduced, state

GROUP = "t5"
PAD, EOS = 0, 1
T5_FIELDS = (
    "model_type vocab_size d_model d_kv d_ff num_layers num_decoder_layers num_heads relative_attention_num_buckets "
    "relative_attention_max_distance layer_norm_epsilon feed_forward_proj dense_act_fn is_gated_act "
    "scale_decoder_outputs tie_word_embeddings pad_token_id bos_token_id eos_token_id decoder_start_token_id"
).split()


def t5_fields(config) -> dict:
    whole = config.to_dict()
    return {name: whole[name] for name in T5_FIELDS if name in whole}


def t5_config(own_head: bool, **fields) -> T5Config:
    """A head of its own goes with unscaled decoder outputs, as in T5 v1.1, unless `fields` say otherwise."""
    ids = dict(pad_token_id=PAD, eos_token_id=EOS, bos_token_id=EOS, decoder_start_token_id=PAD)
    return T5Config(**{**ids, "tie_word_embeddings": not own_head, **fields})


def build(kind, config, seed: int, own_head: bool):
    model = kind._from_config(config, attn_implementation="eager").eval()
    t5 = getattr(model, "language_model", model)
    if own_head:  # this version of transformers ties the two until a file that has both is loaded
        t5.lm_head.weight = torch.nn.Parameter(torch.empty_like(t5.lm_head.weight))
    randomize(model.named_parameters(), seed, 0.3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("shared.weight"):  # a tied head would mostly repeat what it reads, were words large
                parameter.mul_(2 if own_head else 0.4)
            if name.endswith((".o.weight", ".wo.weight")) and not own_head:
                parameter.mul_(2)
            if name.endswith("relative_attention_bias.weight"):
                parameter.mul_(3)
            if name.endswith("qkv.bias"):
                width = parameter.shape[0] // 3
                parameter[width : 2 * width] = 0
    return model


def rows(seed: int, lengths: list[int], vocab: int, fill: int):
    """Texts with an end token, padded on the right, and their mask."""
    source, longest = generator(seed), max(lengths)
    ids = torch.full((len(lengths), longest), fill)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        body = torch.randint(4, vocab, (length,), generator=source)
        body[-1] = EOS
        ids[row, :length], mask[row, :length] = body, 1
    return ids, mask


def make_buckets() -> None:
    tensors, cases = {}, []
    for number, distance in [(32, 128), (32, 64), (8, 20), (6, 12), (12, 64), (7, 50), (64, 300), (4, 9), (33, 1000)]:
        for both in (True, False):
            reach = distance + 40
            positions = torch.arange(-reach, reach + 1)
            found = T5Attention._relative_position_bucket(positions, both, number, distance)
            name = f"{'both' if both else 'before'}.{number}.{distance}"
            tensors[f"outputs/{name}"] = found
            cases.append({"name": name, "bidirectional": both, "buckets": number, "max_distance": distance})
    write_case(GROUP, "buckets", tensors, {"model": "T5Attention._relative_position_bucket", "settings": cases})


T5_ROWS = [
    (True, dict(d_model=20, d_kv=5, d_ff=28, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu")),
    (
        True,
        dict(d_model=24, d_kv=6, d_ff=30, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", dense_act_fn="gelu")
        | dict(relative_attention_num_buckets=8, relative_attention_max_distance=20),
    ),
    (
        False,
        dict(d_model=18, d_kv=8, d_ff=40, num_layers=3, num_heads=2, feed_forward_proj="relu", num_decoder_layers=2)
        | dict(relative_attention_num_buckets=6, relative_attention_max_distance=9, layer_norm_epsilon=1e-5),
    ),
    (
        False,
        dict(d_model=22, d_kv=4, d_ff=26, num_layers=1, num_heads=5, feed_forward_proj="gated-silu")
        | dict(relative_attention_num_buckets=12, relative_attention_max_distance=7, tie_word_embeddings=False),
    ),
]


def make_t5(number: int, row: tuple, seed: int) -> None:
    own_head, fields = row
    config = t5_config(own_head, vocab_size=56 + number, **fields)
    model = build(T5ForConditionalGeneration, config, seed, own_head)
    vocab = config.vocab_size
    ids, mask = rows(seed + 1, [23, 4, 9], vocab, PAD)
    labels, _ = rows(seed + 2, [4, 18, 2], vocab, -100)
    prompts = {"ids": {"input_ids": ids, "attention_mask": mask}}
    eos = choose_eos(model, prompts, PAD)
    config.eos_token_id = model.generation_config.eos_token_id = eos
    generated, listed = generate_all(model, prompts, eos, PAD)

    embeds = model.shared(ids).detach().requires_grad_()
    result = model(inputs_embeds=embeds, attention_mask=mask, labels=labels, output_hidden_states=True)
    watched = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith(("relative_attention_bias.weight", "final_layer_norm.weight", "shared.weight"))
        or name in ("decoder.block.0.layer.1.EncDecAttention.k.weight", "encoder.block.0.layer.0.SelfAttention.q.weight")
    }
    gradients = torch.autograd.grad(result.loss, [embeds, *watched.values()])
    names = ["inputs_embeds", *watched]
    tensors = {
        **state(model),
        "inputs/input_ids": ids,
        "inputs/attention_mask": mask,
        "inputs/labels": labels,
        "outputs/encoder_last_hidden_state": result.encoder_last_hidden_state,
        "outputs/logits": result.logits,
        **{f"gradients/{name}": gradient for name, gradient in zip(names, gradients)},
        **generated,
    }
    info = {
        "model": "T5ForConditionalGeneration",
        "config": t5_fields(config),
        "scalars": {"loss": result.loss.item()},
        "generate_defaults": {"eos_token_id": eos, "pad_token_id": PAD, "do_sample": False},
        "generate": listed,
    }
    write_case(GROUP, f"t5-{number}", tensors, info)


BLIP2_ROWS = [
    (
        dict(hidden_size=20, num_attention_heads=2, patch_size=4, image_size=12, num_hidden_layers=2, intermediate_size=28),
        dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=24, vocab_size=10),
        T5_ROWS[1],
        dict(num_query_tokens=4, image_token_index=57),
        dict(cross_attention_frequency=2, lengths=[4, 2, 7], targets=[3, 9, 5]),
    ),
    (
        dict(hidden_size=18, num_attention_heads=3, patch_size=7, image_size=14, num_hidden_layers=1, intermediate_size=20),
        dict(hidden_size=16, num_attention_heads=4, num_hidden_layers=2, intermediate_size=20, vocab_size=10),
        T5_ROWS[3],
        dict(num_query_tokens=6, image_token_index=58),
        dict(cross_attention_frequency=1, lengths=[5], targets=[6]),
    ),
    (
        dict(hidden_size=16, num_attention_heads=2, patch_size=4, image_size=12, num_hidden_layers=1, intermediate_size=20),
        dict(hidden_size=14, num_attention_heads=2, num_hidden_layers=3, intermediate_size=20, vocab_size=10),
        T5_ROWS[0],
        dict(num_query_tokens=3, image_token_index=56),
        dict(cross_attention_frequency=3, lengths=[6, 3], targets=[2, 4]),
    ),
]


def make_blip2(number: int, row: tuple, seed: int) -> None:
    vision, qformer, (own_head, fields), other, extra = row
    text = t5_config(own_head, vocab_size=60, **fields).to_dict()
    qformer = dict(max_position_embeddings=14, use_qformer_text_input=False) | qformer
    qformer["cross_attention_frequency"] = extra["cross_attention_frequency"]
    config = Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, **other)
    model = build(Blip2ForConditionalGeneration, config, seed, own_head)
    lengths, queries, batch = extra["lengths"], config.num_query_tokens, len(extra["lengths"])
    text_ids, text_mask = rows(seed + 1, lengths, 56, PAD)
    labels, _ = rows(seed + 2, extra["targets"], 56, -100)
    ids = torch.cat([torch.full((batch, queries), config.image_token_index), text_ids], dim=1)
    mask = torch.cat([torch.ones(batch, queries, dtype=torch.int64), text_mask], dim=1)
    pixels = images(seed + 3, batch, vision["image_size"])
    prompts = {
        "prompt": {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask},
        "none": {"pixel_values": pixels},
    }
    eos = choose_eos(model, prompts, PAD)
    config.text_config.eos_token_id = eos
    generated, listed = generate_all(model, prompts, eos, PAD)
    with torch.no_grad():
        result = model(pixel_values=pixels, input_ids=ids, attention_mask=mask, labels=labels, return_dict=True)
        features = model.get_image_features(pixels, return_dict=True)
    tensors = {
        **state(model),
        "inputs/pixel_values": pixels,
        "inputs/input_ids": ids,
        "inputs/attention_mask": mask,
        "inputs/labels": labels,
        "outputs/vision_last_hidden_state": features.last_hidden_state,
        "outputs/query_output": features.qformer_outputs.last_hidden_state,
        "outputs/language_projection": features.pooler_output,
        "outputs/logits": result.logits,
        **generated,
    }
    whole = config.to_dict()
    kept = ("model_type", "num_query_tokens", "image_token_index", "use_decoder_only_language_model")
    info = {
        "model": "Blip2ForConditionalGeneration",
        "config": {
            **{name: whole[name] for name in kept},
            "vision_config": reduced(config.vision_config),
            "qformer_config": reduced(config.qformer_config),
            "text_config": t5_fields(config.text_config),
        },
        "scalars": {"loss": result.loss.item()},
        "generate_defaults": {"eos_token_id": eos, "pad_token_id": PAD, "do_sample": False},
        "generate": listed,
    }
    write_case(GROUP, f"blip2-t5-{number}", tensors, info)


def main() -> None:
    prepare()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    clear(GROUP)
    make_buckets()
    for number, row in enumerate(T5_ROWS, 1):
        first_stable(make_t5, number, row, 20000 + 1000 * number)
    for number, row in enumerate(BLIP2_ROWS, 1):
        first_stable(make_blip2, number, row, 30000 + 1000 * number)


if __name__ == "__main__":
    main()
