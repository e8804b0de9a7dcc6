"""A clock predicts by its predictor, and measures each network once."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from edgekd.errors import StageError
from edgekd.graph.template import Size, Template
from edgekd.search import clock, samples, timing
from edgekd.search.clock import Clock, Predictor
from edgekd.search.proposing import FLOAT
from edgekd.search.timing import Timed, Timing


def network(width):
    """A matrix product of 4 inputs to some outputs, and one of those to 3."""
    weights = [
        helper.make_tensor("a", TensorProto.FLOAT, [4, width], np.ones(4 * width, np.float32)),
        helper.make_tensor("b", TensorProto.FLOAT, [width, 3], np.ones(3 * width, np.float32)),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "b"], ["y"], "last"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


TEMPLATE = Template(
    network(16), {"g": 16}, axes={"a": (Size(4), Size(0, (("g", 1),))), "b": (Size(0, (("g", 1),)), Size(3))}
)


@pytest.fixture
def made(tmp_path, monkeypatch):
    save(network(64), str(tmp_path / "teacher.onnx"))
    shop = SimpleNamespace(store=SimpleNamespace(root=tmp_path), show=None)
    monkeypatch.setattr(samples, "conditions", lambda *given: {"of": "a test"})
    return Clock(
        "box", None, {(0, FLOAT): TEMPLATE}, Predictor(lambda template, networks: []), tmp_path / "teacher.onnx",
        {"x": np.zeros((1, 4), np.float32)}, SimpleNamespace(shop=shop),
    )  # fmt: skip


def test_multiply_accumulates_are_parts_of_the_references(made):
    own = replace(made, predictor=clock.macs(made))
    assert own.predict(0, FLOAT, [{"g": 16}, {"g": 8}]) == [pytest.approx(16 / 64), pytest.approx(8 / 64)]
    assert own.precisions == [FLOAT]


def test_the_size_is_that_of_the_network_that_is_cut(made):
    large, small = made.size_bytes(0, FLOAT, [{"g": 16}, {"g": 8}])
    assert large - small == pytest.approx(4 * 8 * (4 + 3), abs=8)


def test_a_network_is_measured_once(made, monkeypatch):
    asked = []

    def measure(name, place, networks, *rest, **more):
        asked.append(len(networks))
        return Timing({key: Timed(2.0, 1.9, 2.1, 1e5, 2e5) for key in networks}, 0.01)

    monkeypatch.setattr(timing, "measure", measure)
    wide, narrow = (0, FLOAT, {"g": 16}), (0, FLOAT, {"g": 8})
    assert made.measure({"one": wide})["one"].speedup == 2.0
    assert set(made.measure({"one": wide, "two": narrow})) == {"one", "two"}
    made.measure({"again": narrow})
    assert asked == [1, 1]


def test_a_network_that_does_not_run_ends_the_search(made, monkeypatch):
    monkeypatch.setattr(timing, "measure", lambda *given, **more: Timing({}, 0.0, {"x": "no kernel"}))
    with pytest.raises(StageError, match="networks of the search do not run on box: no kernel"):
        made.measure({"one": (0, FLOAT, {"g": 16})})
