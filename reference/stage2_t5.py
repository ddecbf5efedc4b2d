"""Golden files of stage 2 with a T5: test/golden/stage2-t5/<case>.safetensors and .json.

The bridge is the plain PyTorch code of stage1.py and the T5 transformers' own, fed with embeddings: the soft prompt
and the prefix go into its encoder, the labels behind the start token into its decoder. The loss is written out here.
Before anything is written, loss, logits and all gradients are compared with Blip2ForConditionalGeneration as a whole.
Dropout is 0.
"""

import sys
from dataclasses import asdict
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, so that no file of this folder hides a package

import torch
import torch.nn.functional as F
from transformers import Blip2Config, Blip2ForConditionalGeneration, T5ForConditionalGeneration
from transformers.utils import logging

from reference.common import clear, close, generator, prepare, randomize, write_case
from reference.stage1 import Config, Stage1, shapes
from reference.stages import GivenFeatures, hub_config, make_weights
from reference.t5 import build, t5_config, t5_fields

GROUP = "stage2-t5"
LANGUAGE = "language_model."

# Prefixes and labels are lengths with the end token: 1 is an empty text.
CASES = {
    "stage2-t5-batch1": (
        Config(10, 12, 2, 2, 18, 3, cross_attention_frequency=2, vocab=5, projection=4, positions=2, text=False),
        True,
        dict(d_model=20, d_kv=5, d_ff=28, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu", dense_act_fn="gelu"),
        dict(patches=5, prefixes=[1], labels=[6], ids={}),
    ),
    "stage2-t5-whole": (
        Config(8, 12, 3, 3, 16, 4, cross_attention_frequency=1, vocab=5, projection=4, positions=2, text=False),
        False,
        dict(d_model=18, d_kv=8, d_ff=24, num_layers=3, num_decoder_layers=2, num_heads=2, feed_forward_proj="relu")
        | dict(relative_attention_num_buckets=6, relative_attention_max_distance=9),
        dict(patches=9, prefixes=[1, 1, 1], labels=[9, 3, 5], ids={}),
    ),
    "stage2-t5-split": (
        Config(9, 16, 2, 4, 12, 5, cross_attention_frequency=2, vocab=5, projection=4, positions=2, text=False),
        True,
        dict(d_model=16, d_kv=6, d_ff=30, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
        | dict(relative_attention_num_buckets=8, relative_attention_max_distance=20),
        dict(patches=6, prefixes=[5, 1, 12, 3], labels=[4, 11, 1, 7], ids={}),
    ),
    # Ids that are not T5's own, the decoder's start apart from the padding, and a prompt before the prefixes.
    "stage2-t5-ids": (
        Config(7, 16, 2, 2, 20, 6, cross_attention_frequency=1, vocab=5, projection=4, positions=2, text=False),
        False,
        dict(d_model=16, d_kv=4, d_ff=20, num_layers=1, num_decoder_layers=2, num_heads=4, feed_forward_proj="gated-silu"),
        dict(patches=4, prefixes=[4, 7], labels=[5, 8], ids=dict(pad=2, end=3, start=1)),
    ),
}


def rows(seed: int, lengths: list[int], vocab: int, end: int, fill: int):
    """Texts with an end token, padded on the right, and their mask."""
    source, longest = generator(seed), max(lengths)
    ids = torch.full((len(lengths), longest), fill)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, vocab - 1, (length,), generator=source)
        ids[row, length - 1], mask[row, :length] = end, 1
    return ids, mask


def stage2_loss(c: Config, t5: T5ForConditionalGeneration, weights: dict, inputs: dict, ids: dict):
    """The mean of -log p over the labels that count, each given soft prompt, prefix and the labels before it."""
    labels, batch = inputs["labels"], len(inputs["labels"])
    qformer = Stage1(c, weights)
    hidden, _ = qformer.run(queries=qformer.queries(batch), image=qformer.image_tokens(inputs["image_features"]))
    visual = F.linear(hidden, weights["language_projection.weight"], weights["language_projection.bias"])
    embeds = torch.cat([visual, t5.shared(inputs["prefix_ids"])], dim=1)
    mask = torch.cat([torch.ones(batch, c.queries, dtype=torch.int64), inputs["prefix_mask"]], dim=1)
    read = torch.cat([torch.full((batch, 1), ids["start"]), labels[:, :-1]], dim=1)
    read[read == -100] = ids["pad"]
    logits = t5(inputs_embeds=embeds, attention_mask=mask, decoder_input_ids=read).logits
    counted = labels != -100
    said = logits[counted].log_softmax(-1).gather(1, labels[counted][:, None])
    return -said.mean(), {"query_output": hidden, "language_projection": visual, "logits": logits}


def check(c: Config, t5, weights: dict, inputs: dict, loss, outputs: dict, gradients: dict) -> None:
    image_token = t5.config.vocab_size - 1
    config: Blip2Config = hub_config(c, {}, image_token)
    config.text_config = t5.config
    config.use_decoder_only_language_model = False
    model = Blip2ForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    model.language_model = t5
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.startswith(("vision_model.embeddings.", LANGUAGE))]
    if missing or unexpected:
        raise AssertionError(f"names differ: missing {missing}, unexpected {unexpected}")
    model.vision_model.embeddings = GivenFeatures(inputs["image_features"])
    batch = len(inputs["labels"])
    image = torch.full((batch, c.queries), image_token)
    result = model(
        torch.zeros(batch, 3, 4, 4),
        input_ids=torch.cat([image, inputs["prefix_ids"]], dim=1),
        attention_mask=torch.cat([torch.ones_like(image), inputs["prefix_mask"]], dim=1),
        labels=inputs["labels"],
        return_dict=True,
    )
    close(loss, result.loss, "loss")
    close(outputs["logits"], result.logits, "logits", 5e-5)
    result.loss.backward()
    parameters = dict(model.named_parameters())
    for name, gradient in gradients.items():
        # Over the largest value: single precision's rounding goes with it. That of a key's bias is rounding alone.
        largest = parameters[name].grad.abs().max().clamp(min=0.01)
        close(gradient / largest, parameters[name].grad / largest, f"gradient of {name}", 5e-5)
        if not gradient.abs().max() > 0 and not name.endswith("key.bias"):
            raise AssertionError(f"no gradient for {name}")


def make(case: str, row: tuple, seed: int) -> None:
    c, own_head, fields, data = row
    ids = {"pad": 0, "end": 1, "start": 0} | data["ids"]
    named = dict(pad_token_id=ids["pad"], eos_token_id=ids["end"], decoder_start_token_id=ids["start"])
    config = t5_config(own_head, vocab_size=30, dropout_rate=0.0, **fields)
    config.update(named)
    t5 = build(T5ForConditionalGeneration, config, seed, own_head)
    prefix, mask = rows(seed + 1, data["prefixes"], 30, ids["end"], ids["pad"])
    labels, _ = rows(seed + 2, data["labels"], 30, ids["end"], -100)
    batch = len(labels)
    features = torch.randn(batch, data["patches"], c.image_width, generator=generator(seed + 3)) * 2 + 0.3
    inputs = {"image_features": features, "prefix_ids": prefix, "prefix_mask": mask, "labels": labels}
    width = config.d_model
    trained = {**shapes(c), "language_projection.weight": (width, c.hidden), "language_projection.bias": (width,)}
    weights = make_weights(trained, seed + 4)
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    loss, outputs = stage2_loss(c, t5, leaves, inputs, ids)
    gradients = dict(zip(trained, torch.autograd.grad(loss, [leaves[name] for name in trained])))
    check(c, t5, weights, inputs, loss, outputs, gradients)
    frozen = {name: value for name, value in t5.state_dict().items() if "embed_tokens" not in name}
    if not own_head:
        del frozen["lm_head.weight"]
    tensors = {
        **{f"weights/{name}": value for name, value in weights.items()},
        **{f"weights/{LANGUAGE}{name}": value for name, value in frozen.items()},
        **{f"inputs/{name}": value for name, value in inputs.items()},
        **{f"outputs/{name}": value for name, value in outputs.items()},
        **{f"gradients/{name}": value for name, value in gradients.items()},
    }
    info = {
        "stage": 2,
        "config": {"qformer": asdict(c), "t5": t5_fields(config), **ids},
        "options": {"dropout": 0, "frozen": f"{LANGUAGE}*"},
        "scalars": {"loss": loss.item()},
        "notes": "logits of rows whose label is -100 come from padding, and are the same in both",
    }
    write_case(GROUP, case, tensors, info)


def main() -> None:
    prepare()
    logging.set_verbosity_error()
    clear(GROUP)
    for number, (case, row) in enumerate(CASES.items()):
        make(case, row, 40000 + 10 * number)


if __name__ == "__main__":
    main()
