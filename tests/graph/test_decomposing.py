"""Exports that are spared a decomposition compute what they compute with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from compress.nets import build
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgekd.compress import quantization
from edgekd.device import Scheme
from edgekd.graph import decomposing, parity
from edgekd.graph.export import export_onnx


class Around(nn.Module):
    """Something between a convolution and a linear layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(3, 8, 3, padding=1), inner, nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(torch.flatten(self.inner(x), 1))


class Mixed(nn.Module):
    """Operators without a module of their own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x * torch.sigmoid(x), x + 0.5 * x], 1).mean((2, 3), keepdim=True)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[ExportedProgram]:
    """The programs that were decomposed."""
    found: list[ExportedProgram] = []
    decompose = ExportedProgram.run_decompositions

    def counted(program: ExportedProgram, *table: object) -> ExportedProgram:
        found.append(program)
        return decompose(program, *table)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    return found


def export(model: nn.Module, x: Tensor, path: Path, quantized_layers: int | None = None) -> onnx.ModelProto:
    export_onnx(
        model, (x[:2],), path, input_names=["input"], output_names=["logits"], metadata={}, max_opset=20,
        quantized_layers=quantized_layers,
    )  # fmt: skip
    return onnx.load(path)


@pytest.mark.parametrize(
    ("inner", "plain"),
    [
        (nn.ReLU(), True),
        (nn.ReLU6(), True),
        (nn.Hardtanh(-0.1, 0.2), True),
        (nn.LeakyReLU(0.3), True),
        (nn.SiLU(), True),
        (nn.MaxPool2d(3, 2, padding=1), True),
        (nn.AvgPool2d(2), True),
        (nn.AdaptiveAvgPool2d(1), True),
        (nn.AdaptiveAvgPool2d((1, 1)), True),
        (Mixed(), True),
        (nn.ReLU(inplace=True), False),
        (nn.AdaptiveAvgPool2d(2), False),
        (nn.BatchNorm2d(8), False),
        (nn.Dropout(), False),
    ],
    ids=lambda value: str(value).split("\n")[0],
)
def test_only_what_needs_it_is_decomposed(inner: nn.Module, plain: bool, traced, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Around(inner), torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    export(model, x, tmp_path / "model.onnx")
    assert bool(traced) == (not plain)
    for batch in (5, 1):
        actual = parity.run_onnx(tmp_path / "model.onnx", {"input": x.numpy()}, batch)["logits"]
        np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize("name", ["residual", "mlp"])
def test_a_quantized_network_answers_the_same_to_the_bit(name: str, traced, tmp_path: Path, monkeypatch) -> None:
    model, x, _ = build(name)
    prepared = quantization.prepare(model, (x[:2],), Scheme(activations="u8"))
    quantization.calibrate(prepared, [x])
    layers = len(quantization.quantized_layers(prepared))
    spared = export(quantization.convert(prepared), x, tmp_path / "spared.onnx", layers)
    assert not traced
    monkeypatch.setattr(decomposing, "PLAIN", frozenset())
    whole = export(quantization.convert(prepared), x, tmp_path / "whole.onnx", layers)
    assert traced
    assert [(node.op_type, node.output) for node in spared.graph.node] == [
        (node.op_type, node.output) for node in whole.graph.node
    ]
    answers = [
        parity.run_onnx(tmp_path / f"{name}.onnx", {"input": x.numpy()}, len(x))["logits"]
        for name in ("spared", "whole")
    ]
    assert np.array_equal(*answers)
