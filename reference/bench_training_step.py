"""Times a training step (forward and backward, no optimiser) in PyTorch, as the peer of the programs in bench/.

No file is made. Works:
  --work postnorm                    4 post-norm layers as in BERT (batch 8, 64 tokens, width 768, ffn 3072, 12 heads,
                                     erf GELU, no dropout); the loss is the mean of the squares of the output
  --work stage1 --config FILE.json   the stage-1 losses of stage1.py; the file gives batch, text, patches, image_width,
                                     hidden, layers, heads, ffn, queries, cross_attention_frequency, vocab, projection
Other options: --precision fp32|bf16 (autocast), --threads 2, --seed 0, --repeats N, --save FILE.safetensors.

With --repeats N it does one untimed step, then N timed ones, prints one line of JSON and ends. Without, it serves:
after one untimed step it prints a line of JSON with "ready": true, then answers every line `run N` on stdin with one
line, so that two programs can take turns; it ends at the end of stdin. A line of JSON holds
  work, precision, threads, seconds (one number per step), loss, peak_rss_bytes, start_rss_bytes (the peak when
  everything was imported and nothing made), versions
or "error". --save writes the weights and inputs (`weights/...`, `inputs/...`) and the fp32 loss (`outputs/loss`), so
that the other side can start from the same numbers.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, so that no file of this folder hides a package

import torch
import torch.nn.functional as F

from reference.stage1 import PAD, Config, Stage1, shapes

POSTNORM = {"batch": 8, "tokens": 64, "hidden": 768, "ffn": 3072, "heads": 12, "layers": 4, "eps": 1e-12}


def fill(named_shapes: dict, source: torch.Generator) -> dict:
    """As at the start of training; norms are a little off, as mean squares of a plain norm would not depend on x."""
    weights = {}
    for name, shape in named_shapes.items():
        values = torch.randn(shape, generator=source)
        is_norm = "norm" in name.lower() and name.endswith("weight")
        weights[name] = 1 + 0.1 * values if is_norm else 0.02 * values
    if "temp" in weights:
        weights["temp"] = torch.tensor(0.07)
    return weights


def postnorm(source: torch.Generator):
    size = POSTNORM
    hidden, ffn = size["hidden"], size["ffn"]
    named = {}
    for i in range(size["layers"]):
        for part in ("query", "key", "value", "output"):
            named[f"layer.{i}.{part}.weight"], named[f"layer.{i}.{part}.bias"] = (hidden, hidden), (hidden,)
        named[f"layer.{i}.fc1.weight"], named[f"layer.{i}.fc1.bias"] = (ffn, hidden), (ffn,)
        named[f"layer.{i}.fc2.weight"], named[f"layer.{i}.fc2.bias"] = (hidden, ffn), (hidden,)
        for norm in ("norm1", "norm2"):
            named[f"layer.{i}.{norm}.weight"], named[f"layer.{i}.{norm}.bias"] = (hidden,), (hidden,)
    weights = fill(named, source)
    inputs = {"x": torch.randn(size["batch"], size["tokens"], hidden, generator=source)}

    def loss(w):
        def linear(name, value):
            return F.linear(value, w[f"{name}.weight"], w[f"{name}.bias"])

        def norm(name, value):
            return F.layer_norm(value, (hidden,), w[f"{name}.weight"], w[f"{name}.bias"], size["eps"])

        x = inputs["x"]
        for i in range(size["layers"]):
            query, key, value = (
                linear(f"layer.{i}.{part}", x).unflatten(-1, (size["heads"], -1)).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            x = norm(f"layer.{i}.norm1", x + linear(f"layer.{i}.output", mixed))
            x = norm(f"layer.{i}.norm2", x + linear(f"layer.{i}.fc2", F.gelu(linear(f"layer.{i}.fc1", x))))
        return x.float().square().mean()

    return weights, inputs, loss


def stage1(source: torch.Generator, size: dict):
    fields = "image_width hidden layers heads ffn queries cross_attention_frequency vocab projection".split()
    config = Config(**{name: size[name] for name in fields}, positions=size.get("positions", 512))
    batch, length = size["batch"], size["text"]
    weights = fill(shapes(config), source)
    ids = torch.randint(1, config.vocab - 1, (batch, length), generator=source)
    lengths = torch.randint(max(2, length // 2), length + 1, (batch, 1), generator=source)
    mask = (torch.arange(length)[None] < lengths).long()
    inputs = {
        "image_features": torch.randn(batch, size["patches"], config.image_width, generator=source),
        "input_ids": ids * mask + PAD * (1 - mask),
        "attention_mask": mask,
        "negative_images": (torch.arange(batch) + 1) % batch,
        "negative_texts": (torch.arange(batch) + batch - 1) % batch,
    }

    def loss(w):
        return Stage1(config, w).losses(
            inputs["image_features"],
            inputs["input_ids"],
            inputs["attention_mask"],
            inputs["negative_images"],
            inputs["negative_texts"],
        )["total"]

    return weights, inputs, loss


def peak_rss() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=["postnorm", "stage1"], required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    if options.work == "stage1" and options.config is None:
        parser.error("--work stage1 needs --config")
    if options.repeats is not None and options.repeats < 1:
        parser.error("--repeats must be at least 1")
    torch.set_num_threads(options.threads)
    start_rss = peak_rss()
    source = torch.Generator().manual_seed(options.seed)
    if options.work == "postnorm":
        weights, inputs, compute = postnorm(source)
    else:
        weights, inputs, compute = stage1(source, json.loads(options.config.read_text()))
    if options.save:
        from safetensors.torch import save_file

        with torch.no_grad():
            result = {"outputs/loss": compute(weights)}
        result |= {f"weights/{name}": value for name, value in weights.items()}
        result |= {f"inputs/{name}": value for name, value in inputs.items()}
        save_file(result, str(options.save))
    leaves = {name: value.requires_grad_() for name, value in weights.items()}
    parameters = list(leaves.values())

    def step() -> tuple[float, float]:
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            loss = compute(leaves)
        gradients = torch.autograd.grad(loss, parameters)
        seconds = time.perf_counter() - started
        assert len(gradients) == len(parameters)
        return seconds, loss.item()

    def answer(count: int, **extra) -> None:
        done = [step() for _ in range(count)]
        line = {
            "work": options.work,
            "precision": options.precision,
            "threads": torch.get_num_threads(),
            "seconds": [seconds for seconds, _ in done],
            "loss": done[-1][1] if done else None,
            "peak_rss_bytes": peak_rss(),
            "start_rss_bytes": start_rss,
            "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
            **extra,
        }
        print(json.dumps(line), flush=True)

    step()
    if options.repeats is not None:
        answer(options.repeats)
        return
    answer(0, ready=True)
    for line in sys.stdin:
        words = line.split()
        if not words:
            continue
        if len(words) == 2 and words[0] == "run" and words[1].isdigit() and int(words[1]) > 0:
            answer(int(words[1]))
        else:
            print(json.dumps({"error": f"expected `run N`, got {line.strip()!r}"}), flush=True)


if __name__ == "__main__":
    main()
