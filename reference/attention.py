"""Golden cross-attention of the Q-Former: test/golden/attention/.

Each case runs a model of test/golden/{models,t5,retrieval}/ (run models.py, t5.py and retrieval.py first) with eager
attention, and holds results alone: weights and inputs lie in the case of the same name there.

`outputs/probabilities` are the cross-attentions of transformers' `output_attentions=True` where queries run without a
text. Retrieval models have `outputs/matching_probabilities` of the joint run as well and, from autograd, the
derivatives of the match logit by them, `gradients/matching_probabilities`; `outputs/weighted` is probability times
derivative, where that is above zero, averaged over heads: Grad-CAM on attention, as ALBEF and BLIP draw it. Each text is
run alone, without padding. All are [pictures, layers, heads (not in weighted), queries, positions].
"""

import json
import sys
import warnings
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, so that no file of this folder hides a package

import torch
from safetensors.torch import load_file
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval
from transformers.utils import logging

from reference.common import GOLDEN, clear, close, prepare, write_case

CAPTIONERS = [("models", f"blip2-opt-{n}") for n in (1, 2, 3)] + [("t5", f"blip2-t5-{n}") for n in (1, 2, 3)]
RETRIEVERS = [("models", "retrieval-1"), ("models", "retrieval-2")] + [("retrieval", f"retrieval-{n}") for n in (3, 4, 5)]


def load(kind, group: str, name: str):
    folder = GOLDEN / group
    fields = json.loads((folder / f"{name}.json").read_text())["config"]
    stored = load_file(str(folder / f"{name}.safetensors"))
    model = kind._from_config(Blip2Config(**fields), attn_implementation="eager").eval()
    weights = {key.removeprefix("weights/"): value for key, value in stored.items() if key.startswith("weights/")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # Copies of the word table are not stored.
    assert not unexpected and all(key.startswith("language_model.") for key in missing), (missing, unexpected)
    inputs = {key.removeprefix("inputs/"): value for key, value in stored.items() if key.startswith("inputs/")}
    return model, inputs


def query_run(model, pixels):
    """Cross-attentions of the layers that have some. -> [B, L, H, Q, P]."""
    with torch.no_grad():
        seen = model.vision_model(pixel_values=pixels).last_hidden_state
        queries = model.query_tokens.expand(pixels.shape[0], -1, -1)
        extra = {"query_length": queries.shape[1]} if isinstance(model, Blip2ForImageTextRetrieval) else {}
        found = model.qformer(query_embeds=queries, encoder_hidden_states=seen, output_attentions=True, **extra)
    return torch.stack(found.cross_attentions, dim=1)


def checked(probabilities, model):
    qformer = model.config.qformer_config
    layers = len(range(0, qformer.num_hidden_layers, qformer.cross_attention_frequency))
    assert probabilities.shape[1] == layers, probabilities.shape
    close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]), "rows")
    return probabilities


def make_captioner(group: str, name: str) -> None:
    model, inputs = load(Blip2ForConditionalGeneration, group, name)
    probabilities = checked(query_run(model, inputs["pixel_values"]), model)
    write_case("attention", name, {"outputs/probabilities": probabilities}, {"of": f"{group}/{name}"})


def joint_run(model, pixels, ids, mask):
    """One pair: probabilities, and what autograd makes of them. -> [1, L, H, Q, P] twice, the match logit."""
    kept, hooks = [], []
    for layer in model.qformer.encoder.layer:
        if layer.has_cross_attention:
            attention = layer.crossattention.attention
            hooks.append(attention.register_forward_hook(lambda _, __, output: kept.append(output[1])))
    logits = model(pixels, ids, mask, use_image_text_matching_head=True).logits_per_image
    for hook in hooks:
        hook.remove()
    derivatives = torch.autograd.grad(logits[:, 1].sum(), kept)
    return torch.stack(kept, dim=1), torch.stack(derivatives, dim=1), logits


def make_retriever(group: str, name: str) -> None:
    model, inputs = load(Blip2ForImageTextRetrieval, group, name)
    pixels, ids, mask = (inputs[key] for key in ("pixel_values", "input_ids", "attention_mask"))
    rows = [joint_run(model, pixels[i : i + 1], ids[i : i + 1, : n], mask[i : i + 1, : n]) for i, n in enumerate(mask.sum(1))]
    probabilities, derivatives, logits = (torch.cat(parts).detach() for parts in zip(*rows))
    assert (derivatives.abs().amax(dim=(2, 3, 4)) > 1e-4).all(), "gradients too small to say anything"
    tensors = {
        "outputs/probabilities": checked(query_run(model, pixels), model),
        "outputs/matching_probabilities": checked(probabilities, model),
        "outputs/itm_logits": logits,
        "outputs/weighted": (probabilities * derivatives.clamp(min=0)).mean(dim=2),
        "gradients/matching_probabilities": derivatives,
    }
    write_case("attention", name, tensors, {"of": f"{group}/{name}"})


def main() -> None:
    prepare()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    clear("attention")
    for case in CAPTIONERS:
        make_captioner(*case)
    for case in RETRIEVERS:
        make_retriever(*case)


if __name__ == "__main__":
    main()
