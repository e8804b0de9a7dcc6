from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compress.nets import build
from onnx import TensorProto, numpy_helper
from torch import nn

from edgekd.compress import quantization
from edgekd.device import Scheme
from edgekd.errors import StageError
from edgekd.graph import four_bits, parity
from edgekd.graph.export import export_onnx
from edgekd.graph.lint import inspect

U8 = Scheme(activations="u8")


def exported(model: nn.Module, x: torch.Tensor, path: Path, bits: int, layers: int, max_opset: int = 21) -> nn.Module:
    prepared = quantization.prepare(model, (x[:2],), U8, bits)
    quantization.calibrate(prepared, x.split(16))
    converted = quantization.convert(prepared)
    export_onnx(
        converted, (x[:2],), path, input_names=["input"], output_names=["logits"], metadata={},
        max_opset=max_opset, quantized_layers=layers, weights_bits=bits,
    )  # fmt: skip
    return converted


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_nibbles_are_read_back_by_onnx_exactly(count: int) -> None:
    integers = np.arange(count).astype(np.int8) % 15 - 7
    tensor = onnx.helper.make_tensor("w", TensorProto.INT4, [count], four_bits.nibbles(integers).tobytes(), True)
    assert numpy_helper.to_array(tensor).astype(np.int8).tolist() == integers.tolist()


@pytest.mark.parametrize("name", ["residual", "mlp"])
def test_a_file_of_4_bit_weights_holds_the_same_integers_and_answers_the_same(name: str, tmp_path: Path) -> None:
    model, x, layers = build(name)
    path = tmp_path / "four.onnx"
    converted = exported(model, x, path, 4, len(layers))
    facts, proto = inspect(path), onnx.load(path)
    assert (facts.opset, facts.quantized_layers) == (21, len(layers))
    weights = {
        tuple(tensor.dims): numpy_helper.to_array(tensor).astype(np.int8)
        for tensor in proto.graph.initializer
        if tensor.data_type == TensorProto.INT4
    }
    kept = {tuple(b.shape): b.numpy() for b in converted.buffers() if b.dtype == torch.int8 and b.dim() > 1}
    assert weights.keys() == kept.keys()
    for shape, integers in weights.items():
        assert np.array_equal(integers, kept[shape])
        assert np.abs(integers).reshape(len(integers), -1).max(1).tolist() == [7] * len(integers)
    with torch.no_grad():
        expected = converted(x).numpy()
    plain = parity.run_onnx(path, {"input": x.numpy()}, 64)["logits"]
    fused = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": x.numpy()})[0]
    openvino = pytest.importorskip("openvino", reason="the second runtime is not installed")
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    other = openvino.Core().compile_model(path, "CPU", precise)(x.numpy())[0]
    for actual in (plain, fused, other):
        assert not parity.check(parity.compare({"logits": expected}, {"logits": actual}), parity.INT8_TOLERANCE)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10)), (128,)),
        (nn.Sequential(nn.Conv2d(16, 96, 3), nn.ReLU(), nn.Conv2d(96, 96, 3)), (16, 6, 6)),
    ],
    ids=["linear", "convolutions"],
)
def test_a_file_of_4_bit_weights_is_at_most_0_6_of_one_of_8_bits(
    model: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    x = torch.rand(32, *shape)
    for bits in (4, 8):
        exported(model.eval(), x, tmp_path / f"{bits}.onnx", bits, 2)
    four, eight = (inspect(tmp_path / f"{bits}.onnx") for bits in (4, 8))
    assert four.size_bytes <= 0.6 * eight.size_bytes
    assert four.parameters == eight.parameters
    assert eight.opset < 21  # what is not asked for does not change a file


def test_a_runtime_that_is_too_old_is_named_with_its_opset(tmp_path: Path) -> None:
    model, x, layers = build("mlp")
    with pytest.raises(StageError, match=r"4-bit weights need ONNX opset 21, and the runtime reads up to 20"):
        exported(model, x, tmp_path / "m.onnx", 4, len(layers), max_opset=20)
    assert not (tmp_path / "m.onnx").exists()


def test_integers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, x, layers = build("mlp")
    exported(model, x, tmp_path / "m.onnx", 8, len(layers))
    with pytest.raises(ValueError, match="do not fit 4 bits"):
        four_bits.pack_weights(onnx.load(tmp_path / "m.onnx"))
