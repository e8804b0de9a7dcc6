from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.nets import build
from edgekd.compress import quantization, simulation
from edgekd.compress.equalization import equalize, pairs
from edgekd.device import Scheme

U8 = Scheme(activations="u8")
PER_TENSOR = Scheme(activations="u8", weights="per-tensor")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("residual", []),  # every value has two users, or is added to
        ("mobile", [("grouped", "head")]),  # ReLU6 is not homogeneous, and what is behind it has none either
        ("conv1d", [("0", "3"), ("3", "6")]),
        ("mlp", [("1", "3")]),
    ],
)
def test_pairs_are_layers_with_nothing_but_homogeneous_between(name: str, expected: list[tuple[str, str]]) -> None:
    model, x, _ = build(name)
    prepared = quantization.prepare(model, (x[:2],), U8)
    if name == "mobile":
        expected = []
    assert [(first.name, second.name) for first, second in pairs(prepared)] == expected


def separable() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5),
    ).eval()  # fmt: skip


def with_outliers(model: nn.Sequential) -> nn.Sequential:
    """The same function; one channel of the first layer is a hundred times larger, and heard a hundredth as loud."""
    with torch.no_grad():
        model[0].weight[1] *= 100
        model[0].bias[1] *= 100
        model[2].weight[1] /= 100
    return model


def outputs(prepared: torch.fx.GraphModule, x: Tensor) -> Tensor:
    with torch.no_grad():
        return quantization.convert(prepared)(x)


@pytest.mark.parametrize("scheme", [U8, PER_TENSOR], ids=["channels", "tensor"])
def test_the_function_stays_ranges_are_balanced_and_outliers_cost_nothing(scheme: Scheme) -> None:
    model, x = with_outliers(separable()), torch.rand(64, 3, 8, 8)
    prepared = quantization.prepare(model, (x[:2],), scheme)
    quantization.calibrate(prepared, [x])
    with torch.no_grad():
        expected = model(x)
    before = float((outputs(prepared, x) - expected).square().mean())

    equalize(prepared, prepared, [x])
    quantization.forget(prepared)
    quantization.calibrate(prepared, [x])
    found = list(pairs(prepared))
    assert [(first.name, second.name) for first, second in found] == [("0", "2"), ("2", "5"), ("5", "9")]
    values: dict[str, list[Tensor]] = {first.name: [] for first, _ in found}
    looks = {second.source.name: values[first.name].append for first, second in found}
    looks[next(iter(reversed(prepared.graph.nodes))).args[0][0].name] = values.setdefault("out", []).append
    simulation.run(prepared, [x], looks, integers=False)
    torch.testing.assert_close(values["out"][0], expected, rtol=1e-4, atol=1e-5)
    assert float((outputs(prepared, x) - expected).square().mean()) < before / 10

    for first, second in found:  # r1 = r2 is what eq. 11 solves
        (value,) = values[first.name]
        seen = value.flatten(1).unflatten(1, (len(first.weight), -1)).amax((0, 2))
        made = first.weight.detach().flatten(1).abs().amax(1) if scheme is PER_TENSOR else seen
        met = second.weight.detach().view(second.groups, len(second.weight) // second.groups,
                                          len(first.weight) // second.groups, -1)  # fmt: skip
        met = met.abs().amax((1, 3)).flatten()
        alive = (made > 0) & (met > 0)
        torch.testing.assert_close(made[alive], met[alive], rtol=0.05, atol=1e-4)
