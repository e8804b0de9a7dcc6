from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekd.errors import UsageError
from edgekd.graph.lint import Port, inspect
from edgekd.graph.macs import count_macs


def model(
    nodes: list[NodeProto],
    constants: dict[str, np.ndarray],
    shape: list[int | str],
    result: list[int | str],
) -> ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def gemm() -> ModelProto:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    return model(nodes, {"w": floats(3, 8), "b": floats(3)}, ["batch", 8], ["batch", 3])


def quantized_gemm() -> ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], axis=0),
        helper.make_node("Reshape", ["d", "shape"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "b"], ["y"], transB=1),
    ]
    constants = {
        "s": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "wq": np.ones((3, 8), np.int8), "ws": floats(3),
        "wz": np.zeros(3, np.int8), "b": floats(3), "shape": np.array([-1, 8]),
    }  # fmt: skip
    return model(nodes, constants, ["batch", 2, 4], ["batch", 3])


def test_a_float_file_is_described(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    proto = gemm()
    helper.set_model_props(proto, {"recipe": "digits"})
    onnx.save(proto, path)
    seen = inspect(path)
    assert seen.inputs == (Port("x", ("batch", 8), "float32"),)
    assert seen.outputs == (Port("y", ("batch", 3), "float32"),)
    assert (seen.opset, seen.parameters, seen.macs) == (17, 27, 24)
    assert (seen.layers, seen.quantized_layers, dict(seen.nodes)) == (1, 0, {"Gemm": 1})
    assert (seen.size_bytes, seen.nonfinite, dict(seen.metadata)) == (path.stat().st_size, (), {"recipe": "digits"})


def test_a_quantized_file_is_described_as_the_float_one(tmp_path: Path) -> None:
    onnx.save(quantized_gemm(), tmp_path / "m.onnx")
    seen = inspect(tmp_path / "m.onnx")
    assert (seen.parameters, seen.macs) == (27, 24)  # scales, zero points and the shape are no parameters
    assert (seen.layers, seen.quantized_layers) == (1, 1)  # the input is dequantized before it is reshaped


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    proto = gemm()
    bad = floats(3, 8)
    bad[1, 2] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(bad, "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    assert inspect(tmp_path / "m.onnx").nonfinite == ("w",)


def test_external_weights_count_in_the_size(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(gemm(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert inspect(path).size_bytes == path.stat().st_size + (tmp_path / "m.data").stat().st_size
    assert inspect(path).parameters == 27
    (tmp_path / "m.data").unlink()
    with pytest.raises(UsageError, match=r"m\.data, which is not beside it"):
        inspect(path)


def test_external_weights_elsewhere_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 1000)
    proto = gemm()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "in" / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UsageError, match="outside its folder"):
        inspect(tmp_path / "in" / "m.onnx")


def test_what_is_no_onnx_file_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(UsageError, match="no such file"):
        inspect(path)
    with pytest.raises(UsageError, match="a directory"):
        inspect(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="empty"):
        inspect(path)
    path.write_text("version: 1\nteacher: {model: mlp}\n")
    with pytest.raises(UsageError, match="ONNX"):
        inspect(path)


@settings(max_examples=60)
@given(st.one_of(st.binary(max_size=200), st.integers(0, 10_000)))
def test_garbage_and_truncated_files_are_usage_errors(
    tmp_path_factory: pytest.TempPathFactory, content: bytes | int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.onnx"
    whole = quantized_gemm().SerializeToString()
    path.write_bytes(content if isinstance(content, bytes) else whole[: content % len(whole)])
    with pytest.raises(UsageError):
        inspect(path)


@pytest.mark.parametrize(
    ("operator", "attributes", "weight", "shape", "result", "macs"),
    [
        ("Conv", {"pads": [1, 1, 1, 1], "strides": [2, 2]}, (16, 3, 3, 3), (3, 8, 8), (16, 4, 4), 16 * 16 * 27),
        ("Conv", {"group": 8}, (8, 1, 3, 3), (8, 6, 6), (8, 4, 4), 8 * 16 * 9),
        ("Conv", {}, (4, 3, 5), (3, 12), (4, 8), 4 * 8 * 15),
        ("ConvTranspose", {"strides": [2, 2]}, (3, 5, 2, 2), (3, 4, 4), (5, 8, 8), 48 * 20),
        ("MatMul", {}, (6, 7), (5, 6), (5, 7), 5 * 6 * 7),
    ],
    ids=["conv", "depthwise", "conv1d", "transposed", "matmul"],
)
def test_macs_are_those_of_the_closed_form(
    operator: str,
    attributes: dict[str, int],
    weight: tuple[int, ...],
    shape: tuple[int, ...],
    result: tuple[int, ...],
    macs: int,
) -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    assert count_macs(model([node], {"w": floats(*weight)}, ["n", *shape], ["n", *result])) == macs


def test_macs_of_unknown_shapes_are_unknown() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    assert count_macs(model(nodes, {"w": floats(6, 7)}, ["batch", "length", 6], ["batch", "length", 7])) is None


def test_reading_and_comparing_load_no_torch() -> None:
    code = "import edgekd.graph.lint, edgekd.graph.parity, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
