import numpy as np
import pytest
from handmade import template
from onnx import helper, numpy_helper

from edgekd.graph.macs import count_macs
from edgekd.graph.template import instance
from edgekd.graph.workload import macs, workload


@pytest.mark.parametrize("widths", [{}, {"a": 5}, {"a": 3, "b": 14}])
def test_work_is_that_of_the_network_that_is_cut(widths):
    found = workload(template())
    work = found.at(widths)
    assert [one.name for one in found.operators] == ["first", "relu", "second", "pool", "head"]
    assert [one.kind for one in work] == ["conv", "Relu", "pointwise", "GlobalAveragePool", "matrix"]
    assert macs(work) == count_macs(instance(template(), widths))
    a, b = widths.get("a", 16), widths.get("b", 16)
    assert [(one.inputs, one.outputs) for one in work if one.inputs] == [(2, a), (a, b), (b, 3)]
    assert [(one.taken, one.given) for one in work] == [
        (72, 36 * a), (36 * a, 36 * a), (36 * a, 36 * b), (36 * b, b), (b, 3),
    ]  # fmt: skip
    assert [one.positions for one in work] == [36, 36, 36, 1, 1]
    assert not found.integers


def test_layers_on_dequantized_values_are_integers():
    made = template()
    graph = made.model.graph
    constants = {"s": np.float32(0.1), "u": np.uint8(3), "z": np.int8(0)}
    graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in constants.items())
    weight = next(tensor for tensor in graph.initializer if tensor.name == "second.weight")
    weight.CopyFrom(numpy_helper.from_array(np.ones(weight.dims, np.int8), "second.weight"))
    added = [
        helper.make_node("QuantizeLinear", ["r", "s", "u"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "u"], ["rd"], "dq"),
        helper.make_node("DequantizeLinear", ["second.weight", "s", "z"], ["w"], "dqw"),
    ]
    nodes = list(graph.node)
    nodes[2].input[:] = ["rd", "w"]
    del graph.node[:]
    graph.node.extend([*nodes[:2], *added, *nodes[2:]])
    found = workload(made)
    assert [one.name for one in found.operators if one.integers] == ["second"]
    assert found.integers
    assert [(one.inputs, one.outputs) for one in found.at({"a": 4, "b": 6}) if one.integers] == [(4, 6)]
