"""Linear layers whose activations become integers at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from edgekd import models
from edgekd.artifact import Artifact
from edgekd.compress import dynamic
from edgekd.device import Scheme
from edgekd.errors import StageError
from edgekd.graph import parity
from edgekd.graph.anatomy import dissect
from edgekd.graph.dynamic import dynamic_linear
from edgekd.graph.export import export_onnx
from edgekd.graph.layer_sqnr import layer_sqnr_db
from edgekd.graph.lint import inspect, read
from edgekd.graph.qdq import refusal
from edgekd.models import Description
from edgekd.options import Data
from edgekd.stage import Inputs
from edgekd.stages.quantize import Options

SHAPE = (1, 4, 4)
MLP = Description("edgekd.models.mlp:build", {"input_shape": list(SHAPE), "classes": 5, "widths": [12, 7]}, SHAPE)
CONVNET = Description("edgekd.models.convnet:build", {"input_shape": list(SHAPE), "classes": 5, "width": 4}, SHAPE)


def given(folder: Path, description: Description, **scheme: Any) -> Inputs:
    """What the stage is given: a network with random weights."""
    torch.manual_seed(0)
    models.save(folder, description, models.create(description).state_dict())
    source = Artifact(folder, "teacher", "", "", {"parameters": 1, "macs": 1})
    return Inputs(
        artifacts={"model": source}, blocks={}, data_dir=None, task="classification", seed=0, data_seed=0,
        data=Data(source="digits"), compute="cpu", variant="dynamic-u8",
        context={"scheme": Scheme(activations="u8", **scheme).model_dump()},
    )  # fmt: skip


def export(model: nn.Module, path: Path, layers: int | None) -> Path:
    export_onnx(
        model, (models.example(SHAPE),), path, input_names=["input"], output_names=["logits"], metadata={},
        max_opset=17, quantized_layers=layers,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with the float network, the dynamic one that the stage made of it, and an ONNX file of each."""
    folder = tmp_path_factory.mktemp("dynamic")
    for name in ("float", "dynamic"):
        (folder / name).mkdir()
    facts = dynamic.quantize(
        Options(mode="dynamic"), given(folder / "float", MLP, reduce_range=True), folder / "dynamic"
    )
    export(models.load(folder / "float"), folder / "float.onnx", None)
    export(models.load(folder / "dynamic"), folder / "dynamic.onnx", len(facts["quantized_layers"]))
    return folder, facts


def test_the_file_answers_as_the_network_and_as_that_of_onnx_runtimes_own_quantizer(made) -> None:
    folder, _ = made
    samples = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        network = models.load(folder / "dynamic")(torch.from_numpy(samples)).numpy()
    ours = parity.run_onnx(folder / "dynamic.onnx", {"input": samples}, 16)["logits"]
    np.testing.assert_allclose(ours, network, rtol=1e-5, atol=1e-6)
    quantize_dynamic(
        folder / "float.onnx", folder / "theirs.onnx", op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
        reduce_range=True, weight_type=QuantType.QInt8,
    )  # fmt: skip
    theirs = parity.run_onnx(folder / "theirs.onnx", {"input": samples}, 16)["logits"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_the_file_holds(made) -> None:
    folder, facts = made
    whole, changed = inspect(folder / "float.onnx"), inspect(folder / "dynamic.onnx")
    assert len(facts["quantized_layers"]) == 3
    assert (changed.layers, changed.quantized_layers, changed.opset) == (3, 3, 17)
    assert (changed.parameters, changed.macs) == (whole.parameters, whole.macs)
    assert changed.nodes["MatMulInteger"] == 3
    graph = dissect(read(folder / "dynamic.onnx"))
    assert graph.quantized
    assert [(one.name, one.activations, one.largest_integer) for one in graph.layers] == [
        (name, "uint8", 64) for name in facts["quantized_layers"]
    ]
    assert "computes on integers itself" in str(refusal(read(folder / "dynamic.onnx")))


def test_layers_are_compared_with_the_float_ones_bias_and_all(made) -> None:
    folder, facts = made
    samples = {"input": np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)}
    found = layer_sqnr_db(folder / "dynamic.onnx", folder / "float.onnx", samples)
    assert list(found) == facts["quantized_layers"]
    assert all(25 < ratio < 60 for ratio in found.values())


def test_only_linear_layers_that_are_not_excluded_change(tmp_path: Path) -> None:
    for name in ("conv", "out", "none"):
        (tmp_path / name).mkdir()
    inputs = given(tmp_path / "conv", CONVNET)
    facts = dynamic.quantize(Options(mode="dynamic"), inputs, tmp_path / "out")
    last = list(dict(models.create(CONVNET).named_modules()))[-1]
    assert facts["quantized_layers"] == [last]
    state = models.load(tmp_path / "out").state_dict()
    assert (state[f"{last}.weight_integers"].dtype, f"{last}.weight" in state) == (torch.int8, False)
    assert state["0.weight"].dtype == torch.float32
    with pytest.raises(StageError, match="has none but those that are excluded; take ptq, qat or mixed"):
        dynamic.quantize(Options(mode="dynamic", exclude=[last]), inputs, tmp_path / "none")


@pytest.mark.parametrize("x", [torch.tensor([[0.0, 255.0], [3.0, 51.0]]), torch.zeros(3, 2), -torch.ones(1, 2)])
def test_integers_are_multiplied_exactly(x: torch.Tensor) -> None:
    weight, scale = torch.tensor([[1, -2, 0], [127, 3, -127]], dtype=torch.int8), torch.tensor([1.0, 0.5, 2.0])
    expected = x @ (weight.float() * scale) + 1
    torch.testing.assert_close(dynamic_linear(x, weight, scale, torch.ones(3)), expected)
    torch.testing.assert_close(dynamic_linear(x, weight, scale, None), expected - 1)
