"""Which builds a device is given, and which files it is spared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.device import Device
from edgekd.dispatch.variants import Build, expand, variant_names
from edgekd.errors import UsageError
from edgekd.graph.lint import find_opset, inspect


def device(*precisions: str, max_opset: int = 17) -> Device:
    return Device(version=1, backend="tensorrt", precisions=precisions, max_opset=max_opset)


JETSON = device("fp32", "fp16", "int8")


def save(path: Path, nodes: list[Any], constants: dict[str, Any], opset: int) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def floats(path: Path, opset: int = 17, largest: float = 1.0) -> Path:
    weight = np.linspace(-largest, largest, 12, dtype=np.float32).reshape(4, 3)
    return save(path, [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": weight}, opset)


def integers(path: Path, opset: int = 17, zero: int = 0, scale: float = 0.1) -> Path:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "input_q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "input_d"),
        helper.make_node("DequantizeLinear", ["i", "s", "none"], ["w"], "weight"),
        helper.make_node("MatMul", ["d", "w"], ["y"], "product"),
    ]
    values = {
        "s": np.float32(scale), "z": np.int8(zero), "none": np.int8(0), "i": np.arange(12, dtype=np.int8).reshape(4, 3)
    }  # fmt: skip
    return save(path, nodes, values, opset)


def test_a_device_without_precisions_takes_the_files_as_they_are(tmp_path: Path):
    chosen = {"teacher": floats(tmp_path / "t.onnx", opset=20), "int8": integers(tmp_path / "i.onnx", zero=9)}
    assert expand(device(), chosen, tmp_path / "absent") == {
        "teacher": Build("teacher", chosen["teacher"], None),
        "int8": Build("int8", chosen["int8"], None),
    }


def test_a_float_network_is_built_twice_and_a_quantized_one_once(tmp_path: Path):
    # Named to mislead: what a file is, is read from the file.
    chosen = {"teacher": floats(tmp_path / "t.onnx"), "float": integers(tmp_path / "i.onnx")}
    folder = tmp_path / "work"
    folder.mkdir()
    made = expand(JETSON, chosen, folder)
    assert {name: (build.origin, build.precision) for name, build in made.items()} == {
        "teacher": ("teacher", "fp32"),
        "teacher-fp16": ("teacher", "fp16"),
        "float": ("float", "int8"),
    }
    assert made["teacher"] == Build("teacher", chosen["teacher"], "fp32")
    assert made["teacher-fp16"].path == chosen["teacher"]
    assert not any(build.refused or build.remarks for build in made.values())
    half = onnx.load(made["teacher-fp16"].half_file)
    assert {tensor.data_type for tensor in half.graph.initializer} == {TensorProto.FLOAT16}


def test_an_int8_file_travels_with_float_weights_and_its_half_file_in_opset_19(tmp_path: Path):
    chosen = {"int8": integers(tmp_path / "i.onnx")}
    build = expand(JETSON, chosen, tmp_path)["int8"]
    assert build.path.parent == build.half_file.parent == tmp_path
    sent = onnx.load(build.path)
    stored = {tensor.name: tensor.data_type for tensor in sent.graph.initializer}
    assert stored["weight_floats"] == TensorProto.FLOAT
    assert "i" not in stored
    assert inspect(build.path).quantized_layers == 1
    assert find_opset(sent) == 17
    assert find_opset(onnx.load(build.half_file)) == 19


def test_what_tensorrt_would_refuse_stays_here_with_the_reason(tmp_path: Path):
    chosen = {"teacher": floats(tmp_path / "t.onnx"), "int8": integers(tmp_path / "i.onnx", zero=-128)}
    made = expand(JETSON, chosen, tmp_path)
    assert made["int8"].refused.startswith("TensorRT does not take this quantization: input_q has zero point -128")
    assert made["int8"].half_file is None
    assert made["teacher"].refused is None


def test_a_precision_that_the_device_does_not_list(tmp_path: Path):
    chosen = {"teacher": floats(tmp_path / "t.onnx"), "int8": integers(tmp_path / "i.onnx")}
    made = expand(device("fp32", "fp16"), chosen, tmp_path)
    assert made["int8"].refused == "the device's `precisions` are fp32, fp16; this is quantized, int8"


def test_an_opset_that_the_device_does_not_read(tmp_path: Path):
    chosen = {"teacher": floats(tmp_path / "t.onnx", opset=18)}
    made = expand(JETSON, chosen, tmp_path)
    for build in made.values():
        assert "its ONNX opset is 18, the device reads up to 17" in build.refused
        assert "max_opset" in build.refused
    assert not expand(device("fp32", max_opset=18), chosen, tmp_path)["teacher"].refused


def test_without_a_float16_file_the_reason_goes_along(tmp_path: Path):
    build = expand(JETSON, {"int8": integers(tmp_path / "i.onnx", scale=1e-9)}, tmp_path)["int8"]
    assert (build.half_file, build.refused) == (None, None)
    (remark,) = build.remarks
    assert remark.startswith("no file in float16, which TensorRT 11 would need: i.onnx cannot be written in float16")


def test_values_cut_to_float16_are_told(tmp_path: Path):
    build = expand(JETSON, {"teacher": floats(tmp_path / "t.onnx", largest=1e6)}, tmp_path)["teacher-fp16"]
    assert build.remarks == ("in float16: w holds -1e+06, cut to 65504",)


@pytest.mark.parametrize(
    ("precisions", "names"),
    [
        ((), {"t": ("t", None), "i": ("i", None)}),
        (("fp32",), {"t": ("t", "fp32"), "i": ("i", "int8")}),
        (("fp16",), {"t": ("t", "fp16"), "i": ("i", "int8")}),
        (("fp32", "fp16", "int8"), {"t": ("t", "fp32"), "t-fp16": ("t", "fp16"), "i": ("i", "int8")}),
        (("fp16", "fp32"), {"t": ("t", "fp16"), "t-fp32": ("t", "fp32"), "i": ("i", "int8")}),
    ],
)
def test_names(precisions: tuple[str, ...], names: dict[str, tuple[str, str | None]]):
    assert variant_names(device(*precisions), {"t": False, "i": True}) == names
    assert list(variant_names(device(*precisions), {"t": False, "i": True})) == list(names)


def test_names_that_cannot_be():
    with pytest.raises(UsageError, match="leaves out the teacher"):
        variant_names(device("int8"), {"t": False})
    with pytest.raises(UsageError, match="t-fp16 is both a variant and a precision"):
        variant_names(JETSON, {"t": False, "t-fp16": False})


def test_a_runtime_that_is_told_the_precision_gets_the_file_as_it_is(tmp_path: Path):
    runs = Device(version=1, backend="openvino", precisions=("fp32", "bf16"))
    quantized = {"teacher": False, "int8": True}
    assert variant_names(runs, quantized) == {
        "teacher": ("teacher", "fp32"), "teacher-bf16": ("teacher", "bf16"), "int8": ("int8", None),
    }  # fmt: skip
    path = floats(tmp_path / "t.onnx")
    for build in expand(runs, {"teacher": path}, tmp_path).values():
        assert (build.path, build.half_file, build.refused) == (path, None, None)
    with pytest.raises(UsageError, match="openvino runs quantized files as they are: leave int8 out"):
        variant_names(runs.model_copy(update={"precisions": ("fp32", "int8")}), quantized)
