"""Golden file of training steps: test/golden/optimizer/adamw.safetensors and .json.

Twelve steps of torch.optim.AdamW on a tiny regression: two groups (decay 0.05 for matrices and the 0-dim scale, none
for biases), betas (0.9, 0.98), gradients clipped to global norm 1, learning rate by linear warm-up then cosine. The
tensors of step k (0-based) are `gradients/step<k>/<name>` (before clipping), `outputs/step<k>/<name>` (after the
update), `outputs/step<k>/exp_avg/<name>` and `outputs/step<k>/exp_avg_sq/<name>`.
"""

import math
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, so that no file of this folder hides a package

import torch

from reference.common import clear, generator, prepare, write_case

STEPS, WARMUP = 12, 4
PEAK, LOWEST, START = 3e-2, 2e-3, 1e-4
BETAS, EPS, DECAY, MAX_NORM = (0.9, 0.98), 1e-8, 0.05, 1.0


def learning_rate(step: int) -> float:
    """From START to PEAK over the warm-up steps, then half a cosine down to LOWEST at the last step."""
    if step < WARMUP:
        return START + (PEAK - START) * step / WARMUP
    progress = (step - WARMUP) / (STEPS - 1 - WARMUP)
    return LOWEST + (PEAK - LOWEST) * 0.5 * (1 + math.cos(math.pi * progress))


def main() -> None:
    prepare()
    clear("optimizer")
    source = generator(42)
    shapes = {
        "hidden.weight": (6, 4),
        "hidden.bias": (6,),
        "norm.weight": (6,),
        "norm.bias": (6,),
        "output.weight": (2, 6),
        "output.bias": (2,),
        "scale": (),
    }
    parameters = {name: (torch.randn(shape, generator=source) * 0.5).requires_grad_() for name, shape in shapes.items()}
    with torch.no_grad():
        parameters["scale"].fill_(0.7)
    x = torch.randn(STEPS, 5, 4, generator=source)
    # Targets grow and shrink so that some steps are clipped and some are not.
    y = torch.randn(STEPS, 5, 2, generator=source) * torch.tensor([0.3, 3, 1, 0.2, 2, 1, 0.4, 1, 3, 0.2, 1, 0.5])[:, None, None]
    tensors = {f"weights/{name}": value.clone() for name, value in parameters.items()}
    tensors |= {"inputs/x": x, "inputs/y": y}

    plain = {name for name, value in parameters.items() if value.ndim == 1 or name.endswith(".bias")}
    groups = [
        {"params": [value for name, value in parameters.items() if name not in plain], "weight_decay": DECAY},
        {"params": [parameters[name] for name in parameters if name in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=BETAS, eps=EPS, foreach=False)
    steps = []
    for step in range(STEPS):
        rate = learning_rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        p = parameters
        inner = torch.nn.functional.gelu(x[step] @ p["hidden.weight"].T + p["hidden.bias"])
        inner = torch.nn.functional.layer_norm(inner, (6,), p["norm.weight"], p["norm.bias"], 1e-5)
        output = (inner @ p["output.weight"].T + p["output.bias"]) / p["scale"]
        loss = ((output - y[step]) ** 2).mean()
        loss.backward()
        for name, value in parameters.items():
            tensors[f"gradients/step{step}/{name}"] = value.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), MAX_NORM)
        optimizer.step()
        for name, value in parameters.items():
            tensors[f"outputs/step{step}/{name}"] = value.detach().clone()
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"outputs/step{step}/{moment}/{name}"] = optimizer.state[value][moment].clone()
        steps.append({"lr": rate, "loss": loss.item(), "grad_norm": norm.item()})
    clipped = sum(row["grad_norm"] > MAX_NORM for row in steps)
    assert 3 <= clipped <= STEPS - 3, f"{clipped} of {STEPS} steps are clipped"
    write_case(
        "optimizer",
        "adamw",
        tensors,
        {
            "model": "y = (layer_norm(gelu(x W1^T + b1)) W2^T + b2) / scale; mean squared error; layer norm eps 1e-5",
            "config": {
                "betas": BETAS,
                "eps": EPS,
                "weight_decay": DECAY,
                "decayed": [name for name in parameters if name not in plain],
                "not_decayed": [name for name in parameters if name in plain],
                "max_grad_norm": MAX_NORM,
                "clip": "factor min(1, max_norm / (norm + 1e-6))",
                "schedule": {
                    "warmup_steps": WARMUP,
                    "total_steps": STEPS,
                    "warmup_lr": START,
                    "peak_lr": PEAK,
                    "min_lr": LOWEST,
                },
            },
            "steps": steps,
        },
    )


if __name__ == "__main__":
    main()
