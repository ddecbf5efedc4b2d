"""Helpers shared by the scripts in this folder: seeds, random weights, and the file format of a golden case.

A case is two files: `<case>.safetensors` with the tensors (`weights/...`, `inputs/...`, `outputs/...`,
`gradients/...`; float32, integers as int64) and `<case>.json` with configuration, shapes, scalars and versions.
"""

import json
import platform
from pathlib import Path

import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parents[1] / "test" / "golden"


def prepare() -> None:
    """One thread and no quiet approximations, so that a second run gives the same bytes."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_grad_enabled(True)


def versions() -> dict:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        import transformers

        found["transformers"] = transformers.__version__
    except ImportError:
        pass
    return found


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stored(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as it goes to disk: contiguous, own memory, float32 or int64."""
    tensor = tensor.detach()
    dtype = torch.float32 if tensor.is_floating_point() else torch.int64
    return tensor.to(dtype).contiguous().clone()


def write_case(group: str, case: str, tensors: dict, info: dict) -> None:
    folder = GOLDEN / group
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: stored(tensors[name]) for name in sorted(tensors)}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise AssertionError(f"{group}/{case}: {name} is not finite")
    save_file(tensors, str(folder / f"{case}.safetensors"))
    document = {"case": case, "group": group, "versions": versions(), **info}
    if "cases" not in info:  # a file of many cases lists its shapes there; those of weights stand in the other file
        kept = {name: list(tensor.shape) for name, tensor in tensors.items() if not name.startswith("weights/")}
        document["shapes"] = kept
    (folder / f"{case}.json").write_text(dumps(document) + "\n")
    size = (folder / f"{case}.safetensors").stat().st_size
    print(f"{group}/{case}: {len(tensors)} tensors, {size} bytes")


def dumps(value, depth: int = 0) -> str:
    """JSON with one entry per line down to short values, which stay on one line."""
    flat = json.dumps(value)
    if len(flat) <= 100 or not isinstance(value, (dict, list)) or not value:
        return flat
    space = "  " * (depth + 1)
    if isinstance(value, dict):
        rows = [f"{space}{json.dumps(key)}: {dumps(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + "  " * depth + "}"
    rows = [space + dumps(item, depth + 1) for item in value]
    return "[\n" + ",\n".join(rows) + "\n" + "  " * depth + "]"


def clear(group: str) -> None:
    """Removes the old cases of a group."""
    for path in sorted((GOLDEN / group).glob("*")):
        if path.suffix in (".json", ".safetensors"):
            path.unlink()


@torch.no_grad()
def randomize(named_parameters, seed: int, std: float) -> None:
    """Weights large enough that a wrong formula shows: norms around 1, biases not 0, matrices of the given std."""
    source = generator(seed)
    for name, parameter in sorted(named_parameters, key=lambda pair: pair[0]):
        values = torch.randn(parameter.shape, generator=source)
        is_norm = "norm" in name.lower() or ".ln" in name
        if is_norm and name.endswith("weight"):
            parameter.copy_(1 + 0.2 * values)
        elif parameter.ndim == 1:
            parameter.copy_(0.1 * values)
        else:
            parameter.copy_(std * values)


def close(actual: torch.Tensor, expected: torch.Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Fails unless |actual - expected| <= tolerance * max(1, |expected|) everywhere."""
    if actual.shape != expected.shape:
        raise AssertionError(f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    error = ((actual - expected).abs() / expected.abs().clamp(min=1)).max().item()
    if not error <= tolerance:
        raise AssertionError(f"{what}: differs by {error}")
