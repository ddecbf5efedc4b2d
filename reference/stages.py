"""Golden files of the two pre-training stages: test/golden/stages/<case>.safetensors and .json.

Losses and gradients come from the plain PyTorch code in stage1.py. Before anything is written, its runs are compared
with transformers' Blip2ForImageTextRetrieval (stage 1) and Blip2ForConditionalGeneration (stage 2, with gradients),
and the cached captioning run with the one-run form of the mask. Negatives are given, dropout is 0.
"""

import sys
from dataclasses import asdict
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, so that no file of this folder hides a package

import torch
import torch.nn.functional as F
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval
from transformers.utils import logging

from reference.common import clear, close, generator, prepare, randomize, write_case
from reference.stage1 import PAD, Config, Opt, OptConfig, Stage1, opt_shapes, shapes

CLS, SEP = 1, 2  # small vocabularies: [PAD] 0, [CLS] 1, [SEP] 2, [DEC] last


def make_weights(named_shapes: dict, seed: int, std: float = 0.3) -> dict:
    weights = {name: torch.zeros(shape) for name, shape in named_shapes.items()}
    randomize(weights.items(), seed, std)
    if "temp" in weights:
        weights["temp"] = torch.tensor(0.11)
    return weights


def texts(seed: int, lengths: list[int], total: int, vocab: int):
    source = generator(seed)
    ids = torch.full((len(lengths), total), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, vocab - 1, (length,), generator=source)
        ids[row, 0], ids[row, length - 1] = CLS, SEP
        mask[row, :length] = 1
    return ids, mask


class GivenFeatures(torch.nn.Module):
    """Stands in for the image encoder's embeddings: whatever the pixels are, the features are these."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, pixel_values, interpolate_pos_encoding=False):
        return self.features


def hub_config(c: Config, text: dict, image_token: int | None) -> Blip2Config:
    return Blip2Config(
        vision_config=dict(
            hidden_size=c.image_width,
            intermediate_size=4,
            num_hidden_layers=0,
            num_attention_heads=1,
            image_size=4,
            patch_size=4,
            layer_norm_eps=c.post_layernorm_eps,
        ),
        qformer_config=dict(
            vocab_size=c.vocab,
            hidden_size=c.hidden,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            intermediate_size=c.ffn,
            cross_attention_frequency=c.cross_attention_frequency,
            max_position_embeddings=c.positions,
            use_qformer_text_input=c.text,
            layer_norm_eps=c.layer_norm_eps,
        ),
        text_config=dict(model_type="opt", pad_token_id=1, bos_token_id=2, **text),
        num_query_tokens=c.queries,
        image_text_hidden_size=c.projection,
        image_token_index=image_token,
    )


def load(kind, config, weights: dict, features, strange: set):
    """A transformers model with these weights; only the names in `strange` may be without a place in it."""
    model = kind._from_config(config, attn_implementation="eager").eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if "embeddings.class" not in name and "lm_head" not in name]
    missing = [name for name in missing if not name.startswith("vision_model.embeddings.")]
    if missing or set(unexpected) != strange:
        raise AssertionError(f"names differ: missing {missing}, unexpected {set(unexpected) ^ strange}")
    model.vision_model.embeddings = GivenFeatures(features)
    return model


# --- stage 1 ----------------------------------------------------------------------------------------------------


def check_stage1(c: Config, weights: dict, inputs: dict, found: dict) -> None:
    """Compares the three kinds of run and their heads with transformers, and the two forms of the caption mask."""
    batch, features = len(inputs["input_ids"]), inputs["image_features"]
    strange = {name for name in weights if name.startswith("cls.")} | {"temp"}
    kept = dict(weights)
    if c.itm_outputs == 1:  # transformers has two classes only: put zeros in front
        kept["itm_head.weight"] = torch.cat([torch.zeros_like(weights["itm_head.weight"]), weights["itm_head.weight"]])
        kept["itm_head.bias"] = torch.cat([torch.zeros(1), weights["itm_head.bias"]])
    text = dict(vocab_size=4, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, ffn_dim=4)
    model = load(Blip2ForImageTextRetrieval, hub_config(c, text, None), kept, features, strange)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    pixels = torch.zeros(batch, 3, 4, 4)
    with torch.no_grad():
        contrast = model(pixels, ids, mask, use_image_text_matching_head=False, return_dict=True)
        match = model(pixels, ids, mask, use_image_text_matching_head=True, return_dict=True)
        query = model.qformer(
            query_embeds=model.query_tokens.expand(batch, -1, -1),
            encoder_hidden_states=contrast.vision_model_output.last_hidden_state,
        ).last_hidden_state
    close(found["query_hidden"], query, "query run")
    close(found["image_embeds"], contrast.image_embeds, "image vectors")
    close(found["text_embeds"], contrast.text_embeds, "text vectors")
    visible = mask.bool()
    close(found["text_hidden"][visible], contrast.text_model_output.last_hidden_state[visible], "text run")
    close(found["sim_i2t"], contrast.logits_per_image / weights["temp"], "similarities", 1e-4)
    joint = torch.cat([torch.ones(batch, c.queries, dtype=torch.bool), visible], dim=1)
    close(found["itm_hidden"][:batch][joint], match.text_model_output.last_hidden_state[joint], "joint run")
    close(found["itm_logits"][:batch], match.logits_per_image[:, -c.itm_outputs :], "matching logits")
    with torch.no_grad():
        one_run = Stage1(c, weights).one_run_caption_logits(features, ids, mask)
    close(found["itg_logits"][visible], one_run[visible], "one-run captioning")


def check_margins(case: str, found: dict) -> None:
    """The best query of every pair must lead clearly, or rounding would send the gradient elsewhere."""
    cosines = torch.einsum("bqd,jd->bqj", found["image_embeds"], found["text_embeds"])
    first, second = cosines.topk(2, dim=1).values.unbind(1)
    if (first - second).min() < 1e-3:
        raise AssertionError(f"{case}: two queries are about equally close to a text; take another seed")


STAGE1 = {
    "stage1-batch1": (
        Config(10, 12, 2, 2, 18, queries=3, cross_attention_frequency=2, vocab=24, projection=6, positions=8),
        dict(patches=5, lengths=[6], total=6, negative_images=[0], negative_texts=[0]),
        {},
    ),
    "stage1-batch3": (
        Config(8, 12, 3, 3, 16, queries=4, cross_attention_frequency=2, vocab=22, projection=8, positions=10),
        dict(patches=7, lengths=[8, 3, 5], total=8, negative_images=[2, 0, 0], negative_texts=[1, 2, 1]),
        {},
    ),
    "stage1-batch6": (
        Config(14, 16, 2, 4, 12, queries=5, cross_attention_frequency=1, vocab=20, projection=5, positions=7),
        dict(
            patches=4,
            lengths=[7, 2, 4, 6, 3, 7],
            total=7,
            negative_images=[5, 3, 3, 0, 1, 2],
            negative_texts=[1, 0, 4, 4, 5, 0],
        ),
        {},
    ),
    "stage1-many-patches": (
        Config(6, 12, 4, 1, 10, queries=2, cross_attention_frequency=3, vocab=18, projection=4, positions=12),
        dict(patches=257, lengths=[9, 4], total=9, negative_images=[1, 0], negative_texts=[1, 0]),
        {"post_layernorm_eps": 1e-6},
    ),
    "stage1-gathered-gradient": (
        Config(8, 12, 2, 2, 14, queries=3, cross_attention_frequency=2, vocab=21, projection=6, positions=9),
        dict(patches=6, lengths=[4, 7, 5], total=7, negative_images=[1, 2, 1], negative_texts=[2, 0, 0]),
        {"detach": False},
    ),
    "stage1-image-id": (
        Config(8, 12, 2, 3, 14, queries=3, cross_attention_frequency=2, vocab=21, projection=6, positions=9),
        dict(
            patches=5,
            lengths=[4, 7, 5, 3],
            total=7,
            negative_images=[1, 0, 3, 2],
            negative_texts=[3, 2, 1, 2],
            image_ids=[7, 3, 7, 9],
        ),
        {},
    ),
    "stage1-article": (
        Config(8, 12, 2, 2, 14, 4, cross_attention_frequency=2, vocab=21, projection=6, positions=9, itm_outputs=1),
        dict(patches=5, lengths=[6, 3, 5], total=6, negative_texts=[2, 2, 0]),
        {},
    ),
}


def make_stage1() -> None:
    for number, (case, (c, data, options)) in enumerate(STAGE1.items()):
        seed = 7000 + 10 * number
        detach = options.get("detach", True)
        c.post_layernorm_eps = options.get("post_layernorm_eps", c.post_layernorm_eps)
        batch = len(data["lengths"])
        ids, mask = texts(seed, data["lengths"], data["total"], c.vocab)
        inputs = {
            "image_features": torch.randn(batch, data["patches"], c.image_width, generator=generator(seed + 1)) * 2 + 0.3,
            "input_ids": ids,
            "attention_mask": mask,
            "negative_texts": torch.tensor(data["negative_texts"]),
        }
        for name in ("negative_images", "image_ids"):
            if name in data:
                inputs[name] = torch.tensor(data[name])
        weights = make_weights(shapes(c), seed + 2)
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        features = inputs["image_features"].clone().requires_grad_()
        found = Stage1(c, leaves).losses(
            features,
            ids,
            mask,
            inputs.get("negative_images"),
            inputs["negative_texts"],
            detach=detach,
            image_ids=inputs.get("image_ids"),
        )
        check_margins(case, found)
        check_stage1(c, weights, inputs, {name: value.detach() for name, value in found.items()})
        names = list(leaves)
        gradients = torch.autograd.grad(found["total"], [*leaves.values(), features])
        for name, gradient in zip(names, gradients):
            # A key bias moves all scores of a row alike, and one pair alone has nothing to be told apart from.
            idle = name.endswith("key.bias") or (batch == 1 and ("_projection" in name or name == "temp"))
            if not gradient.abs().max() > 0 and not idle:
                raise AssertionError(f"{case}: no gradient for {name}")
        scalars = {name: found[name].item() for name in ("itc", "itm", "itg", "total")}
        outputs = {name: value for name, value in found.items() if name not in ("itm_hidden", "text_hidden")}
        tensors = {
            **{f"weights/{name}": value for name, value in weights.items()},
            **{f"inputs/{name}": value for name, value in inputs.items()},
            **{f"outputs/{name}": value for name, value in outputs.items()},
            **{f"gradients/{name}": value for name, value in zip(names, gradients)},
            "gradients/image_features": gradients[-1],
        }
        config = {**asdict(c), "pad": PAD, "cls": CLS, "sep": SEP, "decoder_start": c.decoder_start}
        info = {
            "stage": 1,
            "config": config,
            "options": {
                "gather": "detached" if detach else "with gradient",
                "itc_targets": "image_id" if "image_ids" in data else "diagonal",
                "itm": "two classes" if c.itm_outputs == 2 else "one logit, negative texts only",
                "label_smoothing": 0.1,
                "dropout": 0,
            },
            "scalars": scalars,
            "notes": "itg_logits: rows where attention_mask is 0 are not to be compared",
        }
        write_case("stages", case, tensors, info)


# --- stage 2 ----------------------------------------------------------------------------------------------------

STAGE2 = {
    "stage2-batch1": (
        Config(10, 12, 2, 2, 18, 3, cross_attention_frequency=2, vocab=5, projection=4, positions=2, text=False),
        OptConfig(vocab=30, hidden=16, layers=2, heads=2, ffn=20, positions=16),
        dict(patches=5, lengths=[6], prompt=0),
    ),
    "stage2-padded": (
        Config(8, 12, 3, 3, 16, 4, cross_attention_frequency=1, vocab=5, projection=4, positions=2, text=False),
        OptConfig(vocab=28, hidden=12, layers=3, heads=3, ffn=24, positions=16),
        dict(patches=9, lengths=[7, 3, 5], prompt=0),
    ),
    "stage2-prompt": (
        Config(9, 16, 2, 4, 12, 5, cross_attention_frequency=2, vocab=5, projection=4, positions=2, text=False),
        OptConfig(vocab=26, hidden=12, layers=2, heads=2, ffn=18, positions=18, pre_norm=False),
        dict(patches=6, lengths=[8, 5, 6, 8], prompt=4),
    ),
}
BOS, OPT_PAD, NEWLINE = 2, 1, 5
LANGUAGE = "language_model.model.decoder"


def stage2_loss(c: Config, opt: OptConfig, weights: dict, inputs: dict, features):
    """Loss of the captions behind the projected queries; nothing of the visual part is a target."""
    ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
    qformer, language = Stage1(c, weights), Opt(opt, weights, LANGUAGE)
    batch = len(ids)
    hidden, _ = qformer.run(queries=qformer.queries(batch), image=qformer.image_tokens(features))
    visual = F.linear(hidden, weights["language_projection.weight"], weights["language_projection.bias"])
    ones = torch.ones(batch, c.queries, dtype=torch.int64)
    logits = language.logits(
        torch.cat([visual, language.embed(ids)], dim=1), torch.cat([ones, mask], dim=1)
    )
    targets = torch.cat([ones * -100, labels], dim=1)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)
    return loss, {"query_output": hidden, "language_projection": visual, "logits": logits}


def make_stage2() -> None:
    for number, (case, (c, opt, data)) in enumerate(STAGE2.items()):
        seed = 8000 + 10 * number
        batch, total, prompt = len(data["lengths"]), max(data["lengths"]), data["prompt"]
        source = generator(seed)
        ids = torch.full((batch, total), OPT_PAD)
        prefix = torch.randint(6, opt.vocab - 1, (prompt,), generator=source)
        for row, length in enumerate(data["lengths"]):
            ids[row, :length] = torch.randint(6, opt.vocab - 1, (length,), generator=source)
            ids[row, :prompt] = prefix
            ids[row, 0], ids[row, length - 1] = BOS, NEWLINE
        mask = (ids != OPT_PAD).long()
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :prompt] = -100
        features = torch.randn(batch, data["patches"], c.image_width, generator=generator(seed + 1)) * 2 + 0.3
        inputs = {"image_features": features, "input_ids": ids, "attention_mask": mask, "labels": labels}
        trained = {
            **shapes(c),
            "language_projection.weight": (opt.hidden, c.hidden),
            "language_projection.bias": (opt.hidden,),
        }
        weights = make_weights(trained | opt_shapes(opt, LANGUAGE), seed + 2)
        leaves = {name: value.clone().requires_grad_(name in trained) for name, value in weights.items()}
        loss, outputs = stage2_loss(c, opt, leaves, inputs, features)
        gradients = torch.autograd.grad(loss, [leaves[name] for name in trained])
        check_stage2(c, opt, weights, inputs, loss, outputs, dict(zip(trained, gradients)))
        tensors = {
            **{f"weights/{name}": value for name, value in weights.items()},
            **{f"inputs/{name}": value for name, value in inputs.items()},
            **{f"outputs/{name}": value for name, value in outputs.items()},
            **{f"gradients/{name}": value for name, value in zip(trained, gradients)},
        }
        info = {
            "stage": 2,
            "config": {"qformer": asdict(c), "opt": asdict(opt), "bos": BOS, "pad": OPT_PAD, "newline": NEWLINE},
            "options": {"prompt_length": prompt, "dropout": 0, "frozen": "language_model.*"},
            "scalars": {"loss": loss.item()},
            "notes": "labels cover the text; logits cover the visual part and the text, "
            "and rows where attention_mask is 0 are not to be compared",
        }
        write_case("stages", case, tensors, info)


def check_stage2(c: Config, opt: OptConfig, weights: dict, inputs: dict, loss, outputs: dict, gradients: dict) -> None:
    image_token = opt.vocab - 1
    text = dict(
        vocab_size=opt.vocab,
        hidden_size=opt.hidden,
        num_hidden_layers=opt.layers,
        num_attention_heads=opt.heads,
        ffn_dim=opt.ffn,
        max_position_embeddings=opt.positions,
        do_layer_norm_before=opt.pre_norm,
    )
    model = load(
        Blip2ForConditionalGeneration, hub_config(c, text, image_token), weights, inputs["image_features"], set()
    )
    model.tie_weights()
    batch = len(inputs["input_ids"])
    image = torch.full((batch, c.queries), image_token)
    ids = torch.cat([image, inputs["input_ids"]], dim=1)
    mask = torch.cat([torch.ones_like(image), inputs["attention_mask"]], dim=1)
    labels = torch.cat([torch.full_like(image, -100), inputs["labels"]], dim=1)
    result = model(torch.zeros(batch, 3, 4, 4), input_ids=ids, attention_mask=mask, labels=labels, return_dict=True)
    close(loss, result.loss, "stage-2 loss")
    close(outputs["logits"][mask.bool()], result.logits[mask.bool()], "stage-2 logits", 2e-5)
    result.loss.backward()
    parameters = dict(model.named_parameters())
    for name, gradient in gradients.items():
        close(gradient, parameters[name].grad, f"stage-2 gradient of {name}")
        if not gradient.abs().max() > 0 and not name.endswith("key.bias"):
            raise AssertionError(f"no gradient for {name}")


def main() -> None:
    prepare()
    logging.set_verbosity_error()
    clear("stages")
    make_stage1()
    make_stage2()


if __name__ == "__main__":
    main()
