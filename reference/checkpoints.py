"""Small checkpoint files as torch and LAVIS write them, and what they hold: test/golden/checkpoints/.

`forms/*.pth` vary the file format and share one expected content (`forms.safetensors`); `foreign.pth` has what training runs
put beside the tensors. `lavis-opt.pth`, `lavis-itm.pth`, `eva.pth`, `clip.pth` and `opt/` are random models of
transformers whose weights were renamed to LAVIS's layout; the numbers of those models, with LAVIS's epsilon in the
norm behind the vision transformer, are in `lavis-opt.safetensors` and `lavis-itm.safetensors`.
"""

import re
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from safetensors.torch import save_file
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, CLIPVisionConfig, CLIPVisionModel
from transformers.utils import logging

from reference.common import GOLDEN, generator, prepare, randomize

OUT = GOLDEN / "checkpoints"


def save(value, name: str, zip_form: bool = True, protocol: int = 2) -> None:
    # Storage keys of the old form are memory addresses, so a second run gives other bytes of the same content.
    torch.save(value, OUT / name, _use_new_zipfile_serialization=zip_form, pickle_protocol=protocol)


def forms() -> None:
    source = generator(1)
    base = torch.randn(6, 4, generator=source)
    state = OrderedDict(
        float32=torch.randn(2, 3, generator=source),
        float16=torch.randn(5, generator=source).half(),
        bfloat16=torch.randn(3, 2, generator=source).bfloat16(),
        float64=torch.randn(4, generator=source, dtype=torch.float64),
        int64=torch.tensor([1, -(2**40), 3]),
        int32=torch.tensor([[1, -2], [3, 4]], dtype=torch.int32),
        int16=torch.tensor([-300, 7], dtype=torch.int16),
        int8=torch.tensor([-3, 7], dtype=torch.int8),
        uint8=torch.tensor([0, 255], dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        scalar=torch.tensor(0.07),
        empty=torch.zeros(0, 3),
        whole=base,
        rows=base[2:5],
        transposed=base.t(),
        strided=base[::2, 1::2],
        parameter=torch.nn.Parameter(torch.randn(3, generator=source)),
    )
    state._metadata = OrderedDict({"": {"version": 1}})
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.98), "params": [0]}]}
    (OUT / "forms").mkdir()
    for protocol in (2, 3, 4):
        save({"model": state, "optimizer": optimizer, "epoch": 3}, f"forms/zip-{protocol}.pth", True, protocol)
        save({"model": state, "optimizer": optimizer, "epoch": 3}, f"forms/stream-{protocol}.pth", False, protocol)
    save(state, "forms/flat.pth")
    expected = {}
    for name, tensor in state.items():
        tensor = tensor.detach().contiguous().clone()
        expected[name] = tensor.float() if tensor.dtype == torch.float64 else tensor.int() if tensor.dtype == torch.int16 else tensor
    save_file(expected, OUT / "forms.safetensors")


def foreign() -> None:
    """The modules do not exist here, so they are made up for as long as they are pickled."""
    import types

    omegaconf = types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        def __init__(self) -> None:
            self.content = {"run": {"lr": 1e-4}}
            self.kind = dict

    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    omegaconf.DictConfig = DictConfig
    sys.modules["omegaconf"], sys.modules["omegaconf.dictconfig"] = types.ModuleType("omegaconf"), omegaconf
    save({"model": OrderedDict(weight=torch.arange(3.0)), "config": DictConfig(), "iters": 5}, "foreign.pth")
    save({"model": OrderedDict(weight=torch.arange(3.0), config=DictConfig())}, "foreign-inside.pth")
    del sys.modules["omegaconf"], sys.modules["omegaconf.dictconfig"]


VISION = dict(hidden_size=20, num_attention_heads=2, patch_size=4, image_size=12, num_hidden_layers=2, intermediate_size=28)
QFORMER = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=3, intermediate_size=24, max_position_embeddings=12)
TEXT = dict(model_type="opt", vocab_size=60, hidden_size=20, word_embed_proj_dim=20, num_hidden_layers=2, num_attention_heads=2, ffn_dim=28, max_position_embeddings=32)


def build(kind, config, seed: int):
    config._attn_implementation = "eager"
    model = kind._from_config(config, attn_implementation="eager").eval()
    randomize(model.named_parameters(), seed, 0.3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("qkv.bias"):
                parameter[parameter.shape[0] // 3 : 2 * parameter.shape[0] // 3] = 0
    model.vision_model.post_layernorm.eps = 1e-5
    return model


def lavis_name(name: str) -> str:
    rules = [
        (r"^vision_model\.embeddings\.class_embedding$", "visual_encoder.cls_token"),
        (r"^vision_model\.embeddings\.position_embedding$", "visual_encoder.pos_embed"),
        (r"^vision_model\.embeddings\.patch_embedding", "visual_encoder.patch_embed.proj"),
        (r"^vision_model\.post_layernorm", "ln_vision"),
        (r"^vision_model\.encoder\.layers", "visual_encoder.blocks"),
        (r"layer_norm([12])", r"norm\1"),
        (r"self_attn\.qkv", "attn.qkv"),
        (r"self_attn\.projection", "attn.proj"),
        (r"^qformer\.layernorm", "Qformer.bert.embeddings.LayerNorm"),
        (r"^embeddings\.", "Qformer.bert.embeddings."),
        (r"^qformer\.encoder", "Qformer.bert.encoder"),
        (r"attention\.attention\.", "attention.self."),
        (r"^language_projection", "opt_proj"),
        (r"^(vision|text)_projection", r"\1_proj"),
    ]
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def lavis_state(model, keep) -> OrderedDict:
    state = OrderedDict()
    for name, tensor in model.state_dict().items():
        if not keep(name):
            continue
        tensor = tensor.detach().clone()
        if name.endswith("qkv.bias"):
            q, _, v = tensor.chunk(3)
            base = lavis_name(name).removesuffix("qkv.bias")
            state[base + "q_bias"], state[base + "v_bias"] = q.clone(), v.clone()
        else:
            state[lavis_name(name)] = tensor
    return state


def lavis_opt() -> None:
    config = Blip2Config(
        vision_config=VISION, qformer_config={**QFORMER, "encoder_hidden_size": 20, "vocab_size": 10}, text_config=TEXT, num_query_tokens=4, image_token_index=59
    )
    model = build(Blip2ForConditionalGeneration, config, 31)
    is_vision = lambda name: name.startswith("vision_model.") and "post_layernorm" not in name
    bridge = lavis_state(model, lambda name: not is_vision(name) and not name.startswith("language_model."))
    save({"model": bridge, "optimizer": {"state": {}}, "epoch": 1}, "lavis-opt.pth")
    # The file of the vision transformer alone has one more block, and the norm and head of a classifier.
    eva = OrderedDict((name.removeprefix("visual_encoder."), tensor) for name, tensor in lavis_state(model, is_vision).items())
    for name in [name for name in eva if name.startswith("blocks.1.")]:
        eva[name.replace("blocks.1.", "blocks.2.")] = torch.ones_like(eva[name])
    for name in ("norm.weight", "norm.bias", "head.bias"):
        eva[name] = torch.ones(20)
    save(eva, "eva.pth")
    folder = OUT / "opt"
    folder.mkdir()
    (folder / "config.json").write_text(config.text_config.to_json_string())
    language = {name.removeprefix("language_model."): tensor for name, tensor in model.state_dict().items() if name.startswith("language_model.")}
    torch.save(OrderedDict(language), folder / "pytorch_model.bin")
    source = generator(33)
    pixels = torch.randn(2, 3, 12, 12, generator=source)
    ids = torch.cat([torch.full((2, 4), 59), torch.randint(4, 50, (2, 5), generator=source)], dim=1)
    with torch.no_grad():
        result = model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), return_dict=True)
        features = model.get_image_features(pixels, return_dict=True)
    tensors = {
        "inputs/pixel_values": pixels,
        "inputs/input_ids": ids,
        "outputs/query_output": features.qformer_outputs.last_hidden_state,
        "outputs/vision_last_hidden_state": features.last_hidden_state,
        "outputs/logits": result.logits,
        **{f"weights/{name}": tensor for name, tensor in model.state_dict().items() if "lm_head" not in name},
    }
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, OUT / "lavis-opt.safetensors")


def lavis_itm() -> None:
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, "encoder_hidden_size": 20, "vocab_size": 21, "use_qformer_text_input": True},
        text_config=TEXT,
        num_query_tokens=4,
        image_text_hidden_size=8,
    )
    config.image_token_index = None
    model = build(Blip2ForImageTextRetrieval, config, 41)
    # Caption and retrieval fine-tunes hold the vision transformer.
    state = lavis_state(model, lambda name: not name.startswith("language_model."))
    state["temp"] = torch.tensor(0.05)
    state["Qformer.bert.embeddings.position_ids"] = torch.arange(12)[None]
    source = generator(43)
    for name, shape in {
        "bias": (21,), "transform.dense.weight": (16, 16), "transform.dense.bias": (16,),
        "transform.LayerNorm.weight": (16,), "transform.LayerNorm.bias": (16,), "decoder.bias": (21,),
    }.items():
        state[f"Qformer.cls.predictions.{name}"] = torch.randn(*shape, generator=source)
    state["Qformer.cls.predictions.decoder.weight"] = state["Qformer.bert.embeddings.word_embeddings.weight"]
    save({"model": state}, "lavis-itm.pth", False)
    pixels = torch.randn(2, 3, 12, 12, generator=source)
    ids = torch.randint(1, 20, (2, 5), generator=source)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        contrast = model(pixels, ids, mask, use_image_text_matching_head=False, return_dict=True)
    tensors = {
        "inputs/pixel_values": pixels,
        "inputs/input_ids": ids,
        "outputs/image_embeds": contrast.image_embeds,
        "outputs/text_embeds": contrast.text_embeds,
        **{f"weights/{name}": tensor for name, tensor in model.state_dict().items()},
    }
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, OUT / "lavis-itm.safetensors")


def clip() -> None:
    config = CLIPVisionConfig(hidden_size=24, num_attention_heads=3, patch_size=4, image_size=8, num_hidden_layers=2, intermediate_size=32)
    model = CLIPVisionModel(config).eval()
    randomize(model.named_parameters(), 51, 0.2)
    whole = {name.removeprefix("vision_model."): tensor.detach() for name, tensor in model.state_dict().items() if "position_ids" not in name}
    state = OrderedDict(proj=torch.ones(24, 8))
    fixed = {
        "embeddings.class_embedding": "class_embedding", "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
    }
    for name, tensor in whole.items():
        if re.search(r"[kv]_proj\.", name):
            continue
        if "q_proj." in name:
            joined = torch.cat([whole[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name, tensor = name.replace("q_proj.", "in_proj_"), joined
        name = fixed.get(name, name).replace("pre_layrnorm", "ln_pre").replace("post_layernorm", "ln_post")
        name = name.replace("encoder.layers", "transformer.resblocks").replace("layer_norm", "ln_").replace("self_attn", "attn")
        state[name.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")] = tensor.clone().half()
    save(state, "clip.pth")
    save_file({f"vision_model.{name}": tensor.half().contiguous().clone() for name, tensor in whole.items()}, OUT / "clip.safetensors")


def main() -> None:
    prepare()
    logging.set_verbosity_error()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    forms()
    foreign()
    lavis_opt()
    lavis_itm()
    clip()
    for path in sorted(OUT.rglob("*")):
        if path.is_file():
            print(path.relative_to(OUT), path.stat().st_size)


if __name__ == "__main__":
    main()
