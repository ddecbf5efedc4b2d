"""Loads what `blip2 train` writes with transformers and compares its numbers with this package's.

    node --import tsx test/training/export-outputs.ts FOLDER
    .venv-reference/bin/python reference/check_export.py FOLDER

The first command trains a tiny model of each kind and stores what the package computes from the written folders; this
script loads the same folders with the published Python classes, says which weights are missing or unexpected, and how
far the numbers lie apart. Ends with 1 if anything does not fit.
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2VisionModel,
    BlipImageProcessor,
    OPTForCausalLM,
)

WITHIN = 1e-4
failures: list[str] = []


def report(what: str, fits: bool, detail: str) -> None:
    print(f"{'ok  ' if fits else 'FAIL'} {what}: {detail}")
    if not fits:
        failures.append(what)


def load(model_class, folder: Path, unused: tuple[str, ...] = ()):
    """`unused` begins the names of weights that only training reads and the Python class lacks."""
    model, info = model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    info["unexpected_keys"] = [name for name in info["unexpected_keys"] if not name.startswith(unused)]
    faults = {key: sorted(names) for key, names in info.items() if names}
    report(f"{model_class.__name__} loads {folder.parent.name}", not faults, str(faults) if faults else "every weight")
    return model.eval()


def compare(what: str, ours: torch.Tensor, theirs: torch.Tensor, within: float = WITHIN) -> None:
    if ours.shape != theirs.shape:
        report(what, False, f"shape {list(ours.shape)} against {list(theirs.shape)}")
        return
    far = (ours - theirs).abs().max().item()
    report(what, far <= within, f"largest difference {far:.1e}, largest value {theirs.abs().max().item():.2g}")


def same_ids(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    report(what, ours.tolist() == theirs.tolist(), f"{ours.tolist()} against {theirs.tolist()}")


def language_model(folder: Path, ours: dict, texts: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    same_ids("language-model ids", ours["language-model/ids"], tokens["input_ids"])
    back = [tokenizer.decode(row, skip_special_tokens=True) for row in ours["language-model/ids"]]
    report("language-model decodes", [text.strip() for text in back] == texts, str(back))
    model = load(OPTForCausalLM, folder)
    ids, mask = ours["language-model/ids"], ours["language-model/mask"]
    logits = model(input_ids=ids, attention_mask=mask).logits
    real = mask.bool()
    compare("language-model logits", ours["language-model/logits"][real], logits[real])


def vision(folder: Path, ours: dict, picture: Image.Image) -> None:
    processor = BlipImageProcessor.from_pretrained(folder)
    compare("vision pixels", ours["vision/pixels"], processor(picture, return_tensors="pt")["pixel_values"], 0.02)
    model = load(Blip2VisionModel, folder)
    output = model(pixel_values=ours["vision/pixels"])
    # The norm is new, so it only standardises the features.
    features = torch.nn.functional.layer_norm(ours["vision/features"], ours["vision/features"].shape[-1:], eps=model.config.layer_norm_eps)
    compare("vision features", features, output.last_hidden_state)


def stage1(folder: Path, ours: dict, texts: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    same_ids("stage1 ids", ours["stage1/ids"], tokens["input_ids"])
    # The head that learns to generate, and the temperature of the contrastive loss.
    model = load(Blip2ForImageTextRetrieval, folder, unused=("cls.predictions.", "temp"))
    pixels = ours["vision/pixels"]
    for row in range(len(texts)):
        text = {"input_ids": ours["stage1/ids"][row : row + 1], "attention_mask": ours["stage1/mask"][row : row + 1]}
        matched = model(pixel_values=pixels, **text, use_image_text_matching_head=True).logits_per_image
        compare(f"stage1 matching logits {row}", ours[f"stage1/matching{row}"], matched)
    text = {"input_ids": ours["stage1/ids"], "attention_mask": ours["stage1/mask"]}
    contrast = model(pixel_values=pixels, **text, use_image_text_matching_head=False)
    compare("stage1 image embeds", ours["stage1/image_embeds"], contrast.image_embeds)
    compare("stage1 text embeds", ours["stage1/text_embeds"], contrast.text_embeds.reshape(len(texts), -1))


def stage2(run: str, folder: Path, ours: dict, stored: dict, picture: Image.Image) -> None:
    processor = Blip2Processor.from_pretrained(folder)
    inputs = processor(images=picture, text=stored["texts"][0], return_tensors="pt")
    same_ids(f"{run} ids of the processor", ours[f"{run}/ids"], inputs["input_ids"])
    model = load(Blip2ForConditionalGeneration, folder)
    pixels, ids = ours["vision/pixels"], ours[f"{run}/ids"]
    is_t5 = model.config.text_config.model_type == "t5"
    extra = {"labels": ours[f"{run}/labels"]} if is_t5 else {}
    output = model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), **extra)
    compare(f"{run} logits", ours[f"{run}/logits"], output.logits)
    if is_t5:
        compare(f"{run} loss", ours[f"{run}/loss"], output.loss)
    settings = {"max_new_tokens": 12, "min_new_tokens": 6 if is_t5 else None}
    for name, beams in (("greedy", 1), ("beams", 3)):
        made = model.generate(pixel_values=pixels, num_beams=beams, **settings)[0]
        if is_t5:
            report(f"{run} decoder start", made[0].item() == model.generation_config.decoder_start_token_id, str(made[0]))
            made = made[1:]
        else:
            made = made[(made != model.generation_config.bos_token_id) & (made != model.config.image_token_index)]
        same_ids(f"{run} {name}", ours[f"{run}/{name}"], made)
        text = processor.decode(made, skip_special_tokens=True).strip()
        kept = stored[run][name]
        report(f"{run} {name} text", text == kept, f"{kept!r} against {text!r}")


def main() -> None:
    root = Path(sys.argv[1])
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    ours = load_file(root / "outputs.safetensors")
    stored = json.loads((root / "outputs.json").read_text())
    picture = Image.open(root / "picture.png").convert("RGB")
    language_model(root / "language-model" / "model", ours, stored["texts"])
    vision(root / "vision" / "model", ours, picture)
    stage1(root / "stage1" / "model", ours, stored["texts"])
    for run in ("stage2", "stage2-t5", "stage2-t5-tied"):
        stage2(run, root / run / "model", ours, stored, picture)
    print(f"{len(failures)} do not fit" if failures else "all fit")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
