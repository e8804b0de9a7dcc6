"""SQNR layer by layer, against a closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from faulty import INPUT, Network
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import UsageError
from edgekd.graph.layer_sqnr import layer_sqnr_db


def product(path: Path, weight: np.ndarray, scale: float | None = None) -> Path:
    """x @ weight, whose weight is stored in integers if there is a scale."""
    nodes, constants = [], [numpy_helper.from_array(weight.astype(np.float32), "w")]
    if scale is not None:
        constants = [
            numpy_helper.from_array(np.round(weight / scale).astype(np.int8), "i"),
            numpy_helper.from_array(np.asarray(scale, np.float32), "s"),
        ]
        nodes = [helper.make_node("DequantizeLinear", ["i", "s"], ["w"])]
    nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"], "product"))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_it_is_the_energy_over_that_of_the_difference(tmp_path: Path):
    generator = np.random.default_rng(0)
    weight, x, scale = generator.standard_normal((4, 3)), generator.standard_normal((5, 4)).astype(np.float32), 0.25
    rounded = np.round(weight / scale) * scale
    expected = 10 * np.log10(np.sum((x @ weight) ** 2) / np.sum((x @ (weight - rounded)) ** 2))
    found = layer_sqnr_db(product(tmp_path / "q.onnx", weight, scale), product(tmp_path / "f.onnx", weight), {"x": x})
    assert found == {"product": pytest.approx(expected, abs=1e-4)}
    same = layer_sqnr_db(tmp_path / "f.onnx", tmp_path / "f.onnx", {"x": x})
    assert same == {"product": np.inf}


def test_outliers_under_one_scale_show_in_their_layer(tmp_path: Path):
    x = {"x": np.random.default_rng(0).standard_normal((4, *INPUT[1:])).astype(np.float32)}
    found = {}
    for name, per_channel in (("channel", True), ("tensor", False)):
        plan = {"per_channel": per_channel, "outlier": 30.0}
        quantized = Network(**plan).save(tmp_path / f"{name}.onnx")
        found[name] = layer_sqnr_db(quantized, Network(quantized=False, outlier=30.0).save(tmp_path / "f.onnx"), x)
    assert list(found["tensor"]) == ["c1", "c2", "c3", "c4", "fc"]
    assert found["tensor"]["c1"] > 30
    assert found["tensor"]["c2"] < 25
    assert found["channel"]["c2"] > 30


def test_another_network_is_refused(tmp_path: Path):
    x = {"x": np.zeros(INPUT, np.float32)}
    one, other = Network().save(tmp_path / "a.onnx"), Network(quantized=False, channels=16).save(tmp_path / "b.onnx")
    with pytest.raises(UsageError, match=r"b\.onnx has other layers .*Conv\[16, 32, 3, 3\].*was quantized from"):
        layer_sqnr_db(one, other, x)
