"""Files in float16: the same network, near the float32 one, with float32 at its ends."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgekd.errors import StageError, UsageError
from edgekd.graph.half import to_half
from edgekd.graph.lint import find_opset
from edgekd.graph.qdq import problems

RANDOM = np.random.default_rng(11)
KERNELS = {name: RANDOM.standard_normal((8, 8, 3, 3)).astype(np.float32) / 9 for name in ("k1", "k2")}
HEAD = RANDOM.standard_normal((8, 5)).astype(np.float32) / 3
IMAGES = RANDOM.standard_normal((64, 8, 6, 6)).astype(np.float32)


def save(
    path: Path, nodes: list[Any], constants: dict[str, Any], *, opset: int = 17, outputs: tuple[str, ...] = ("y",)
) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 6, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["?", "?"]) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def ends() -> list[Any]:
    """From an image "h" to the answers "y"."""
    return [
        helper.make_node("GlobalAveragePool", ["h"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "head"], ["y"], "head"),
    ]


def floats(path: Path) -> Path:
    """Convolutions, a residual addition, a resize by a constant node, a maximum (which stays float32), a softmax."""
    scales = numpy_helper.from_array(np.array([1, 1, 1.4, 1.4], np.float32), "scales")
    nodes = [
        helper.make_node("Conv", ["x", "k1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Constant", [], ["scales"], "constant", value=scales),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], "resize", mode="nearest"),
        helper.make_node("Conv", ["b", "k2"], ["c"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "c"], ["d"], "add"),
        helper.make_node("Max", ["d", "floor"], ["e"], "max"),
        helper.make_node("Softmax", ["e"], ["f"], "softmax", axis=1),
        helper.make_node("Mul", ["f", "e"], ["h"], "mul"),
        *ends(),
    ]
    return save(path, nodes, {**KERNELS, "head": HEAD, "floor": np.float32(-0.5)})


def pair(name: str, source: str) -> list[Any]:
    return [
        helper.make_node("QuantizeLinear", [source, f"{name}_s", "zero"], [f"{name}_q"], f"{name}_q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", "zero"], [name], name),
    ]


def quantized(path: Path, opset: int = 17, scale: float = 4 / 127) -> Path:
    """One convolution on integers, its weights scaled per channel, one channel of them nearly dead."""
    kernel = KERNELS["k1"].copy()
    kernel[3] *= 1e-4
    steps = (np.abs(kernel).max((1, 2, 3)) / 127).astype(np.float32)
    nodes = [
        *pair("in", "x"),
        helper.make_node("DequantizeLinear", ["k_i", "k_s"], ["k"], "k", axis=0),
        helper.make_node("Conv", ["in", "k", "bias"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        *pair("h", "r"),
        *ends(),
    ]
    constants = {
        "zero": np.int8(0),
        "in_s": np.float32(scale),
        "h_s": np.float32(scale),
        "k_i": np.rint(kernel / steps[:, None, None, None]).astype(np.int8),
        "k_s": steps,
        "bias": np.linspace(-0.5, 0.5, 8, dtype=np.float32),
        "head": HEAD,
    }
    return save(path, nodes, constants, opset=opset)


def run(path: Path, x: np.ndarray = IMAGES) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # no 16-bit sums
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def snr_db(expected: np.ndarray, given: np.ndarray) -> float:
    return 10 * math.log10(float(np.square(expected).sum() / np.square(expected - given).sum()))


def types(proto: ModelProto) -> dict[str, int]:
    """The type of every value, by ONNX's own inference."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    return {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }


def test_a_float_network_computes_in_float16_between_float32_ends(tmp_path: Path):
    source, target = floats(tmp_path / "m.onnx"), tmp_path / "half.onnx"
    before = source.read_bytes()
    assert to_half(source, target) == []
    assert source.read_bytes() == before
    half = onnx.load(target)
    onnx.checker.check_model(half, full_check=True)
    assert find_opset(half) == 17
    inside = types(half)
    assert (inside["x"], inside["y"]) == (TensorProto.FLOAT, TensorProto.FLOAT)
    assert {inside[name] for name in ("a", "b", "c", "d", "f", "h", "pooled")} == {TensorProto.FLOAT16}
    stored = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert {stored[name] for name in (*KERNELS, "head")} == {TensorProto.FLOAT16}
    assert stored["scales"] == TensorProto.FLOAT  # 1.4 rounded to float16 would be another size
    (expected,), (given,) = run(source), run(target)
    assert given.dtype == np.float32
    assert snr_db(expected, given) > 50  # 11 bits: 66 dB for one rounding
    assert target.stat().st_size < 0.65 * source.stat().st_size


@pytest.mark.parametrize(("opset", "written"), [(17, 19), (19, 19), (20, 20)])
def test_a_quantized_network_gets_float16_scales(tmp_path: Path, opset: int, written: int):
    source, target = quantized(tmp_path / "q.onnx", opset), tmp_path / "half.onnx"
    assert to_half(source, target) == []
    half = onnx.load(target)
    assert find_opset(half) == written
    inside, stored = types(half), {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert {inside[name] for name in ("in", "k", "c", "r", "h")} == {TensorProto.FLOAT16}
    assert stored["k_i"] == TensorProto.INT8
    assert stored["k_s"] == stored["in_s"] == TensorProto.FLOAT16
    assert problems(half) == []
    (expected,), (given,) = run(source), run(target)
    assert snr_db(expected, given) > 40  # a value on the edge between two integers may go either way


@pytest.mark.parametrize("scale", [1e-7, 1e5])
def test_scales_that_float16_cannot_hold_are_an_error(tmp_path: Path, scale: float):
    with pytest.raises(
        StageError, match=rf"q\.onnx cannot be written in float16: in_q has the scale {scale:.3g}".replace("+", r"\+")
    ):
        to_half(quantized(tmp_path / "q.onnx", scale=scale), tmp_path / "half.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["q.onnx"]


def test_values_beyond_float16_are_cut_and_told_and_infinity_stays(tmp_path: Path):
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["a"], "mask"),
        helper.make_node("Max", ["a", "low"], ["h"], "max"),
        *ends(),
    ]
    mask = np.zeros((8, 1, 1), np.float32)
    mask[2], mask[5] = -3e38, -np.inf
    source = save(tmp_path / "m.onnx", nodes, {"mask": mask, "low": np.float32(-9), "head": HEAD})
    assert to_half(source, tmp_path / "half.onnx") == ["mask holds -3e+38, cut to 65504"]
    stored = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer
    }
    assert stored["mask"].ravel().tolist() == [0, 0, -65504, 0, 0, -math.inf, 0, 0]
    assert snr_db(run(source)[0], run(tmp_path / "half.onnx")[0]) > 40


def test_values_used_inside_a_branch_come_before_it(tmp_path: Path):
    inner = [
        helper.make_graph([helper.make_node(kind, ["a"], [f"{kind}_out"], kind)], kind, [],
                          [helper.make_tensor_value_info(f"{kind}_out", TensorProto.FLOAT, None)])
        for kind in ("Relu", "Abs")
    ]  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["a"], "mul"),
        helper.make_node("If", ["yes"], ["h"], "if", then_branch=inner[0], else_branch=inner[1]),
        *ends(),
    ]
    source = save(tmp_path / "m.onnx", nodes, {"two": np.float32(2), "yes": np.array(True), "head": HEAD})
    assert to_half(source, tmp_path / "half.onnx") == []
    assert snr_db(run(source)[0], run(tmp_path / "half.onnx")[0]) > 50


def test_what_cannot_be_raised_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(proto: ModelProto, opset: int) -> ModelProto:
        raise RuntimeError("no adapter for Thing")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    with pytest.raises(StageError, match=r"needs opset 19 .* cannot be raised from opset 17: no adapter for Thing"):
        to_half(quantized(tmp_path / "q.onnx"), tmp_path / "half.onnx")


def test_what_is_no_model_is_refused(tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(os.urandom(50))
    with pytest.raises(UsageError, match=r"m\.onnx"):
        to_half(tmp_path / "m.onnx", tmp_path / "half.onnx")
