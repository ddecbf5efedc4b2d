"""Golden files of retrieval, of other picture sizes and of CLIP inside BLIP-2: test/golden/retrieval/.

Cases: retrieval-{3,4,5} are whole Blip2ForImageTextRetrieval models, as reference/models.py makes them but with other
cross-attention frequencies, picture and patch sizes, widths and padding; each text is also run alone. clip-1 is a
BLIP-2 around a CLIP vision model in the way of LAVIS (output of the last but one block, then ln_vision with its own
epsilon), which transformers has no class for: put together from CLIPVisionModel and Blip2ForConditionalGeneration.
positions-1 holds position tables resized by torch.nn.functional.interpolate.
"""

import sys
import warnings
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, so that no file of this folder hides a package

import torch
from transformers import Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, CLIPVisionConfig, CLIPVisionModel
from transformers.utils import logging

from reference.common import clear, generator, prepare, write_case
from reference.models import TINY_TEXT, blip2_config, build, images, padded_ids, reduced, state

ROWS = [
    (
        dict(hidden_size=24, num_attention_heads=3, patch_size=6, image_size=30, num_hidden_layers=2, intermediate_size=28),
        dict(hidden_size=20, num_attention_heads=4, num_hidden_layers=3, intermediate_size=26, vocab_size=29),
        dict(num_query_tokens=5, image_text_hidden_size=9),
        dict(cross_attention_frequency=1, lengths=[2, 9, 5]),
    ),
    (
        dict(hidden_size=22, num_attention_heads=2, patch_size=5, image_size=20, num_hidden_layers=1, intermediate_size=20),
        dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=5, intermediate_size=24, vocab_size=33),
        dict(num_query_tokens=7, image_text_hidden_size=16, image_token_index=33),
        dict(cross_attention_frequency=3, lengths=[8, 3]),
    ),
    (
        dict(hidden_size=18, num_attention_heads=3, patch_size=8, image_size=16, num_hidden_layers=3, intermediate_size=30),
        dict(hidden_size=30, num_attention_heads=5, num_hidden_layers=4, intermediate_size=20, vocab_size=40),
        dict(num_query_tokens=3, image_text_hidden_size=14, image_token_index=40),
        dict(cross_attention_frequency=2, lengths=[12, 2, 4, 2]),
    ),
]


def make_retrieval(number: int, vision: dict, qformer: dict, fields: dict, extra: dict) -> None:
    seed, lengths = 3000 + 10 * number, extra["lengths"]
    frequency = extra["cross_attention_frequency"]
    qformer = {**qformer, "cross_attention_frequency": frequency, "use_qformer_text_input": True}
    config = blip2_config(vision, qformer, TINY_TEXT, **fields)
    model = build(Blip2ForImageTextRetrieval, config, seed, 0.25)
    queries, batch = config.num_query_tokens, len(lengths)
    ids, mask = padded_ids(seed + 1, lengths, "right", qformer["vocab_size"], bos=2, pad=0)
    if config.image_token_index is not None:
        ids = torch.cat([torch.full((batch, queries), config.image_token_index), ids], dim=1)
        mask = torch.cat([torch.ones(batch, queries, dtype=torch.int64), mask], dim=1)
    lead = queries if config.image_token_index is not None else 0
    pixels = images(seed + 2, batch, vision["image_size"])

    def run(picture, row_ids, row_mask, matching):
        return model(picture, row_ids, row_mask, use_image_text_matching_head=matching, return_dict=True)

    with torch.no_grad():
        match, contrast = run(pixels, ids, mask, True), run(pixels, ids, mask, False)
        alone = []
        for row, length in enumerate(lengths):
            one = (pixels[row : row + 1], ids[row : row + 1, : lead + length], mask[row : row + 1, : lead + length])
            alone.append(run(*one, True).logits_per_image)
    tensors = {
        **state(model),
        "inputs/pixel_values": pixels,
        "inputs/input_ids": ids,
        "inputs/attention_mask": mask,
        "outputs/vision_last_hidden_state": match.vision_model_output.last_hidden_state,
        "outputs/itm_logits": match.logits_per_image,
        "outputs/itm_logits_alone": torch.cat(alone),
        "outputs/itm_probability": match.logits_per_image.softmax(dim=1)[:, 1],
        "outputs/itc_logits_per_image": contrast.logits_per_image,
        "outputs/itc_logits_per_text": contrast.logits_per_text,
        "outputs/image_embeds": contrast.image_embeds,
        "outputs/text_embeds": contrast.text_embeds,
    }
    info = {"model": "Blip2ForImageTextRetrieval", "config": reduced(config)}
    write_case("retrieval", f"retrieval-{number}", tensors, info)


def make_clip() -> None:
    seed, eps, queries = 3500, 1e-3, 4
    clip_config = CLIPVisionConfig(
        hidden_size=24, num_attention_heads=3, patch_size=4, image_size=16, num_hidden_layers=3, intermediate_size=32
    )
    clip = build(CLIPVisionModel, clip_config, seed, 0.2)
    qformer = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=24, vocab_size=10)
    text = dict(vocab_size=60, hidden_size=20, num_hidden_layers=2, num_attention_heads=2, ffn_dim=28)
    config = blip2_config(
        dict(hidden_size=24, num_attention_heads=2, patch_size=4, image_size=16, num_hidden_layers=1, intermediate_size=8),
        qformer,
        text,
        num_query_tokens=queries,
        image_token_index=59,
    )
    blip2 = build(Blip2ForConditionalGeneration, config, seed + 1, 0.3, token_std=0.4)
    norm = blip2.vision_model.post_layernorm
    prompt, prompt_mask = padded_ids(seed + 2, [5, 3], "left", 56)
    mask = torch.cat([torch.ones(2, queries, dtype=torch.int64), prompt_mask], dim=1)
    ids = torch.cat([torch.full((2, queries), 59), prompt], dim=1)
    pixels, larger = images(seed + 3, 2, 16), images(seed + 4, 2, 27)

    def outputs(hidden):
        embeds = torch.nn.functional.layer_norm(hidden, (24,), norm.weight, norm.bias, eps)
        query = blip2.qformer(
            query_embeds=blip2.query_tokens.expand(2, -1, -1), encoder_hidden_states=embeds
        ).last_hidden_state
        soft = blip2.language_projection(query)
        words = blip2.language_model.get_input_embeddings()(prompt)
        joined = torch.cat([soft, words], dim=1)
        logits = blip2.language_model(inputs_embeds=joined, attention_mask=mask).logits
        return {"vision": embeds, "query_output": query, "language_projection": soft, "logits": logits}

    with torch.no_grad():
        found = outputs(clip(pixels, output_hidden_states=True).hidden_states[-2])
        # The same with a table for a grid of 6: LAVIS resizes CLIP's with align_corners.
        table = clip.embeddings.position_embedding.weight
        grown = resize(table[None], 4, 6, True)[0]
        patches = clip.embeddings.patch_embedding(larger).flatten(2).transpose(1, 2)
        start = clip.embeddings.class_embedding.expand(2, 1, -1)
        hidden = clip.pre_layrnorm(torch.cat([start, patches], dim=1) + grown)
        for layer in clip.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        resized = outputs(hidden)
    weights = {name: value for name, value in state(blip2).items() if not name.startswith("weights/vision_model.")}
    weights |= {
        name.replace("weights/", "weights/vision_model.", 1): value
        for name, value in state(clip).items()
    }
    weights["weights/vision_model.post_layernorm.weight"] = norm.weight
    weights["weights/vision_model.post_layernorm.bias"] = norm.bias
    whole = reduced(config)
    whole["vision_config"] = {**reduced(clip_config), "post_layernorm_eps": eps}
    tensors = {
        **weights,
        "inputs/pixel_values": pixels,
        "inputs/larger_pixel_values": larger,
        "inputs/input_ids": ids,
        "inputs/attention_mask": mask,
        **{f"outputs/{name}": value for name, value in found.items()},
        **{f"outputs/larger_{name}": value for name, value in resized.items()},
    }
    info = {
        "model": "CLIPVisionModel (all blocks stored, the last unused) inside Blip2ForConditionalGeneration",
        "config": whole,
        "logits": "rows of padded positions (mask 0) mean nothing and are not to be compared",
    }
    write_case("retrieval", "clip-1", tensors, info)


def resize(table: torch.Tensor, before: int, after: int, align_corners: bool) -> torch.Tensor:
    """[1, 1 + before^2, D] -> [1, 1 + after^2, D]; the class position stays."""
    width = table.shape[-1]
    grid = table[:, 1:].reshape(1, before, before, width).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(after, after), mode="bicubic", align_corners=align_corners)
    return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, width)], dim=1)


def make_positions() -> None:
    tensors = {}
    for before, after in [(2, 5), (5, 2), (4, 1), (1, 3), (16, 26), (3, 4)]:
        table = torch.randn(1, 1 + before**2, 3, generator=generator(before * 100 + after))
        tensors[f"inputs/{before}-{after}"] = table
        tensors[f"outputs/{before}-{after}"] = resize(table, before, after, False)
        tensors[f"outputs/{before}-{after}-aligned"] = resize(table, before, after, True)
    write_case("retrieval", "positions-1", tensors, {"model": "torch.nn.functional.interpolate"})


def main() -> None:
    prepare()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    clear("retrieval")
    for number, row in enumerate(ROWS, 3):
        make_retrieval(number, *row)
    make_clip()
    make_positions()


if __name__ == "__main__":
    main()
