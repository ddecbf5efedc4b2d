"""Golden files of single operators: test/golden/ops/<op>.safetensors and .json.

Every case has random inputs, the output of PyTorch, a random upstream gradient and the gradients that autograd gives
to the float inputs. Tensor names: `<case>/inputs/<name>`, `<case>/outputs/y`, `<case>/upstream`,
`<case>/gradients/<name>`. The JSON lists the cases with their attributes.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, so that no file of this folder hides a package

import torch
import torch.nn.functional as F

from reference.common import clear, generator, prepare, write_case

source = generator(20230130)


def rand(*shape, scale=1.0):
    return torch.randn(shape, generator=source) * scale


def positive(*shape):
    return torch.rand(shape, generator=source) * 3 + 0.1


def away_from_zero(*shape):
    value = rand(*shape)
    return value + torch.sign(value) * 0.5


def integers(high, *shape):
    return torch.randint(0, high, shape, generator=source)


def bits(*shape):
    return integers(2, *shape)


def vector(*values):
    return torch.tensor(values, dtype=torch.float32)


# Pairs of shapes for operators of two inputs: equal, broadcast on either side, size-1 axes, scalars, lower rank.
PAIRS = [
    ((5,), (5,)),
    ((1, 1), (1, 1)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 3, 4)),
    ((2, 1, 4), (1, 3, 1)),
    ((2, 3, 4), (2, 1, 1)),
    ((1, 7), (6, 1)),
    ((2, 3), ()),
    ((), (2, 3)),
    ((1, 2, 3, 5), (4, 1, 3, 1)),
]
SHAPES = [(7,), (1, 1), (2, 3, 4), (1, 3, 1, 5), ()]

cases: dict[str, list[tuple[dict, dict, object]]] = {}


def case(op, inputs, function, **attributes):
    cases.setdefault(op, []).append((inputs, attributes, function))


for op, function, right in [
    ("add", lambda a, b: a + b, rand),
    ("sub", lambda a, b: a - b, rand),
    ("mul", lambda a, b: a * b, rand),
    ("div", lambda a, b: a / b, away_from_zero),
    ("maximum", lambda a, b: torch.maximum(a, b), rand),
    ("minimum", lambda a, b: torch.minimum(a, b), rand),
]:
    for left_shape, right_shape in PAIRS:
        case(op, {"a": rand(*left_shape), "b": right(*right_shape)}, function)

RANGES = {
    "exp": vector(-100, -20, -1, -1e-4, 0, 1e-4, 1, 20, 60),
    "log": vector(1e-30, 1e-6, 0.5, 1, 1.0001, 2, 1e6, 1e30),
    "sqrt": vector(1e-12, 1e-4, 0.25, 1, 3, 1e4, 1e12),
    "tanh": vector(-40, -9, -3, -1, -1e-3, 0, 1e-5, 0.3, 2, 9, 40),
    "sigmoid": vector(-100, -20, -3, -1e-3, 0, 1e-3, 0.3, 8, 20, 100),
    "relu": vector(-100, -1, -1e-6, 1e-6, 1, 100),
    "gelu": vector(-30, -6, -3, -1, -0.1, -1e-4, 0, 1e-4, 0.1, 1, 3, 6, 30),
    "gelu_tanh": vector(-30, -6, -3, -1, -0.1, -1e-4, 0, 1e-4, 0.1, 1, 3, 6, 30),
    "quick_gelu": vector(-60, -6, -3, -1, -0.1, -1e-4, 0, 1e-4, 0.1, 1, 3, 6, 60),
    "erf": vector(-6, -4, -3, -2, -1, -0.5, -1e-3, 0, 1e-5, 1e-3, 0.1, 0.5, 0.84, 1, 2, 3, 4, 6),
    "neg": vector(-1, 0, 2),
}
for op, function, make in [
    ("neg", torch.neg, rand),
    ("exp", torch.exp, rand),
    ("log", torch.log, positive),
    ("sqrt", torch.sqrt, positive),
    ("tanh", torch.tanh, rand),
    ("sigmoid", torch.sigmoid, rand),
    ("relu", torch.relu, rand),
    ("gelu", F.gelu, rand),
    ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), rand),
    ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x), rand),
    ("erf", torch.erf, rand),
]:
    for shape in SHAPES:
        case(op, {"x": make(*shape)}, function)
    case(op, {"x": RANGES[op]}, function)

for condition, a, b in [
    ((2, 3), (2, 3), (2, 3)),
    ((2, 1, 4), (2, 3, 4), ()),
    ((1, 5), (4, 1), (4, 5)),
    ((3,), (2, 3), (1, 1)),
    ((1, 1), (1, 1), (1, 1)),
]:
    case(
        "where",
        {"condition": bits(*condition), "a": rand(*a), "b": rand(*b)},
        lambda condition, a, b: torch.where(condition != 0, a, b),
    )


def matmul(a, b, transposeA=False, transposeB=False):
    return (a.mT if transposeA else a) @ (b.mT if transposeB else b)


# a and b below are the shapes before the transposition asked for by the attributes.
for a, b, left, right in [
    ((3, 4), (4, 5), False, False),
    ((1, 1), (1, 1), False, False),
    ((1, 6), (6, 3), False, False),
    ((4, 1), (1, 3), False, False),
    ((4, 3), (4, 5), True, False),
    ((3, 4), (5, 4), False, True),
    ((4, 3), (5, 4), True, True),
    ((2, 3, 4), (2, 4, 5), False, False),
    ((2, 3, 4), (4, 5), False, False),
    ((3, 4), (2, 4, 5), False, False),
    ((2, 3, 4), (1, 4, 5), False, False),
    ((2, 1, 3, 4), (1, 5, 4, 2), False, False),
    ((2, 3, 5, 4), (2, 3, 6, 4), False, True),
    ((2, 3, 4, 5), (2, 3, 4, 6), True, False),
    ((2, 4, 3), (1, 5, 4), True, True),
    ((1, 2, 1, 7), (1, 2, 9, 7), False, True),
    ((33, 17), (17, 19), False, False),
    ((19, 37), (21, 37), False, True),
]:
    case("matmul", {"a": rand(*a), "b": rand(*b)}, matmul, transposeA=left, transposeB=right)

for leading, inner, outer, bias in [
    ((4,), 3, 5, True),
    ((1,), 1, 1, True),
    ((2, 3), 4, 6, True),
    ((2, 3), 4, 6, False),
    ((1, 2, 3), 7, 1, True),
    ((9,), 33, 18, True),
]:
    inputs = {"x": rand(*leading, inner), "weight": rand(outer, inner)}
    if bias:
        inputs["bias"] = rand(outer)
    case("linear", inputs, lambda x, weight, bias=None: F.linear(x, weight, bias))

MASKED = rand(2, 3, 6)
MASKED[0, :, 4:] = torch.finfo(torch.float32).min
MASKED[1, 2, 1:] += -10000
for op, function in [("softmax", F.softmax), ("log_softmax", F.log_softmax)]:
    for value in [rand(5), rand(1, 1), rand(2, 3, 4), rand(2, 2, 3, 7, scale=8), rand(3, 33)]:
        case(op, {"x": value}, lambda x, function=function: function(x, dim=-1))
    case(op, {"x": torch.tensor([[1000.0, 999.0, -1000.0], [-1e4, -1e4, -1e4]])}, lambda x, f=function: f(x, dim=-1))
case("softmax", {"x": MASKED}, lambda x: F.softmax(x, dim=-1))

for shape, eps, scale in [
    ((4, 6), 1e-5, 1.0),
    ((2, 3, 8), 1e-12, 1.0),
    ((1, 5), 1e-6, 1.0),
    ((2, 1, 33), 1e-5, 10.0),
    ((3, 8), 1e-5, 0.003),
]:
    width = shape[-1]
    case(
        "layer_norm",
        {"x": rand(*shape, scale=scale) + scale, "weight": 1 + 0.3 * rand(width), "bias": rand(width)},
        lambda x, weight, bias, eps: F.layer_norm(x, (x.shape[-1],), weight, bias, eps),
        eps=eps,
    )
    case(
        "rms_norm",
        {"x": rand(*shape, scale=scale) + scale, "weight": 1 + 0.3 * rand(width)},
        lambda x, weight, eps: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * weight,
        eps=1e-6 if eps == 1e-5 else eps,
    )

case("embedding", {"weight": rand(6, 4), "ids": torch.tensor([0, 5, 5, 2])}, lambda weight, ids: weight[ids])
case("embedding", {"weight": rand(5, 3), "ids": torch.tensor([[4, 4, 4], [0, 1, 4]])}, lambda weight, ids: weight[ids])
case("embedding", {"weight": rand(1, 1), "ids": torch.tensor([[0]])}, lambda weight, ids: weight[ids])
case("embedding", {"weight": rand(9, 17), "ids": integers(9, 2, 3, 5)}, lambda weight, ids: weight[ids])

for shape, count in [((5,), 3), ((2, 6), 4), ((2, 3, 5), 1), ((1, 1), 2), ((3, 4), 9)]:
    case(
        "gather_last",
        {"x": rand(*shape), "index": integers(shape[-1], *shape[:-1], count)},
        lambda x, index: torch.gather(x, -1, index),
    )
for shape, rows in [((4, 3), [2, 0, 2, 2, 1]), ((3, 2, 5), [1]), ((1, 4), [0, 0]), ((6,), [5, 3, 3])]:
    case("index_select", {"x": rand(*shape), "ids": torch.tensor(rows)}, lambda x, ids: x[ids])

for shapes, axis in [
    ([(2, 3), (2, 4)], 1),
    ([(2, 3), (1, 3), (4, 3)], 0),
    ([(2, 1, 3), (2, 5, 3)], -2),
    ([(1, 1), (1, 1), (1, 1)], -1),
    ([(2, 3, 2, 2), (2, 3, 2, 1)], 3),
    ([(3, 2)], 0),
]:
    case(
        "concat",
        {name: rand(*shape) for name, shape in zip("abc", shapes)},
        lambda axis, **parts: torch.cat([parts[name] for name in sorted(parts)], axis),
        axis=axis,
    )

for shape, axis, start, end in [
    ((6,), 0, 1, 4),
    ((3, 5), 1, 0, 5),
    ((3, 5), -1, 4, 5),
    ((2, 4, 3), 1, 1, 3),
    ((4, 2, 3), 0, 2, 3),
    ((1, 1), 0, 0, 1),
]:
    case(
        "slice",
        {"x": rand(*shape)},
        lambda x, axis, start, end: x.narrow(axis, start, end - start),
        axis=axis,
        start=start,
        end=end,
    )


def pad(x, padding, value):
    flat = [amount for pair in reversed(padding) for amount in pair]
    return F.pad(x, flat, value=value)


for shape, padding, value in [
    ((4,), [[1, 2]], 0.0),
    ((2, 3), [[0, 0], [2, 1]], 1.5),
    ((2, 3), [[1, 0], [0, 3]], -1.0),
    ((1, 2, 3), [[0, 2], [1, 1], [0, 0]], 0.0),
    ((1, 1), [[0, 0], [0, 0]], 0.0),
]:
    case("pad", {"x": rand(*shape)}, pad, padding=padding, value=value)

for shape, permutation in [
    ((2, 3), [1, 0]),
    ((2, 3, 4), [0, 2, 1]),
    ((2, 3, 4), [2, 0, 1]),
    ((2, 3, 4, 5), [0, 2, 1, 3]),
    ((1, 2, 1, 3), [3, 1, 0, 2]),
    ((5,), [0]),
]:
    case("transpose", {"x": rand(*shape)}, lambda x, permutation: x.permute(permutation), permutation=permutation)
for shape, target in [
    ((2, 6), [3, 4]),
    ((2, 3, 4), [2, 12]),
    ((12,), [1, 2, 2, 3]),
    ((1, 1), []),
    ((2, 3, 4), [6, -1]),
]:
    case("reshape", {"x": rand(*shape)}, lambda x, shape: x.reshape(shape), shape=target)
for shape, target in [
    ((1, 3), [4, 3]),
    ((3,), [2, 3]),
    ((2, 1, 1), [2, 3, 4]),
    ((), [2, 2]),
    ((1, 1), [1, 1]),
    ((1, 2, 1), [3, 1, 2, 4]),
]:
    case("expand", {"x": rand(*shape)}, lambda x, shape: x.expand(shape), shape=target)

REDUCTIONS = [
    ((5,), [0], False),
    ((2, 3, 4), [-1], False),
    ((2, 3, 4), [1], True),
    ((2, 3, 4), [0, 2], False),
    ((2, 3, 4), [0, 1, 2], False),
    ((2, 1, 3), [1], False),
    ((1, 1), [0, 1], True),
    ((3, 37), [0], True),
]
for op, function in [("reduce_sum", torch.sum), ("reduce_mean", torch.mean), ("reduce_max", torch.amax)]:
    for shape, axes, keep in REDUCTIONS:
        case(
            op,
            {"x": rand(*shape)},
            lambda x, axes, keepDims, function=function: function(x, dim=axes, keepdim=keepDims),
            axes=axes,
            keepDims=keep,
        )

for value in [rand(4), rand(3, 5), rand(2, 3, 8, scale=1e-3), rand(1, 1, 1), rand(2, 33, scale=100)]:
    case("l2_normalize", {"x": value}, lambda x, eps: F.normalize(x, dim=-1, eps=eps), eps=1e-12)


def cross_entropy(logits, labels, ignoreIndex, labelSmoothing):
    return F.cross_entropy(logits, labels, ignore_index=ignoreIndex, label_smoothing=labelSmoothing)


for rows, classes, ignored, smoothing in [
    (4, 5, [], 0.0),
    (1, 2, [], 0.0),
    (6, 7, [0, 3], 0.0),
    (4, 5, [], 0.1),
    (6, 7, [1, 5], 0.1),
    (1, 3, [], 0.1),
    (5, 33, [0, 1, 2, 3], 0.1),
]:
    labels = integers(classes, rows)
    labels[ignored] = -100
    inputs = {"logits": rand(rows, classes, scale=3), "labels": labels}
    case("cross_entropy", inputs, cross_entropy, ignoreIndex=-100, labelSmoothing=smoothing)

for shape in [(5,), (1,), (4, 1), (2, 3)]:
    case(
        "binary_cross_entropy_with_logits",
        {"logits": rand(*shape, scale=4), "targets": bits(*shape)},
        lambda logits, targets: F.binary_cross_entropy_with_logits(logits, targets.float()),
    )
case(
    "binary_cross_entropy_with_logits",
    {"logits": vector(-100, 100, -100, 100, 0, 30), "targets": torch.tensor([0, 1, 1, 0, 1, 0])},
    lambda logits, targets: F.binary_cross_entropy_with_logits(logits, targets.float()),
)

for rows, classes in [(3, 3), (1, 1), (4, 9), (1, 5)]:
    targets = F.softmax(rand(rows, classes), dim=-1)
    case(
        "soft_cross_entropy",
        {"logits": rand(rows, classes, scale=3), "targets": targets},
        lambda logits, targets: -(targets * F.log_softmax(logits, dim=-1)).sum(-1).mean(),
    )

CONSTANT = {"soft_cross_entropy": {"targets"}}  # float inputs that get no gradient


def main() -> None:
    prepare()
    clear("ops")
    for op, rows in sorted(cases.items()):
        tensors, listed = {}, []
        for number, (inputs, attributes, function) in enumerate(rows):
            inputs = {
                name: value.clone().requires_grad_(value.is_floating_point() and name not in CONSTANT.get(op, ()))
                for name, value in inputs.items()
            }
            output = function(**inputs, **attributes)
            upstream = torch.randn(output.shape, generator=source)
            wanted = {name: value for name, value in inputs.items() if value.requires_grad}
            gradients = torch.autograd.grad(output, list(wanted.values()), upstream)
            tensors |= {f"{number}/inputs/{name}": value for name, value in inputs.items()}
            tensors |= {f"{number}/outputs/y": output, f"{number}/upstream": upstream}
            tensors |= {f"{number}/gradients/{name}": value for name, value in zip(wanted, gradients)}
            listed.append(
                {
                    "index": number,
                    "attributes": attributes,
                    "inputs": {name: list(value.shape) for name, value in inputs.items()},
                    "output": list(output.shape),
                }
            )
        write_case("ops", op, tensors, {"op": op, "cases": listed})


if __name__ == "__main__":
    main()
