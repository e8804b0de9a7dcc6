"""What is read from a graph about its layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from faulty import Network
from onnx import TensorProto, helper, numpy_helper

from edgekd.graph.anatomy import dissect


def layers(**plan: Any) -> dict[str, Any]:
    return {layer.name: layer for layer in dissect(Network(**plan).proto()).layers}


def test_a_sound_network_has_no_obstacle():
    found = layers()
    assert list(found) == ["c1", "c2", "c3", "c4", "fc"]
    assert all(one.quantized and one.activations == "uint8" and one.obstacle is None for one in found.values())
    assert [one.scales for one in found.values()] == [32, 32, 32, 32, 10]
    assert [one.largest_integer for one in found.values()] == [64] * 5
    # The network's input has no channels to choose, nor have its answers.
    assert [one.channels for one in found.values()] == [(32,), (32, 32), (32, 32), (32, 32), (32,)]


def test_channel_ranges_are_those_of_the_floats():
    weight = np.random.default_rng(0).standard_normal((32, 32, 3, 3)) / 17
    found = layers(quantized=False)["c1"]
    assert (found.quantized, found.scales, found.largest_integer, found.activations) == (False, 0, 0, None)
    np.testing.assert_allclose(found.channel_range, np.abs(weight).max((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(layers()["c1"].channel_range, found.channel_range, rtol=1e-6)
    common = layers(per_channel=False)["c1"]
    assert common.scales == 1
    np.testing.assert_allclose(common.channel_range, found.channel_range, atol=np.abs(weight).max() / 128)


@pytest.mark.parametrize(
    ("plan", "layer", "obstacle"),
    [
        ({"batchnorm": True}, "c2", "c2.bn (BatchNormalization) stands between"),
        ({"late": True}, "c4", "c4.sigmoid (Sigmoid) stands between"),
        ({"add": False}, "c3", "not quantized: sum takes it as floats"),
        ({"zero": 7}, "c1", "the integers behind c1.relu do not begin at zero"),
        ({"bias_scale": 2.0}, "c1", "the scale of its bias"),
    ],
)
def test_what_keeps_a_layer_from_integer_kernels_is_named(plan: Any, layer: str, obstacle: str):
    assert obstacle in layers(**plan)[layer].obstacle


def test_additions_tell_their_float_branches():
    (found,) = dissect(Network(add=False).proto()).additions
    assert (found.name, found.branches, found.quantized) == ("sum", ("c3",), False)
    (found,) = dissect(Network().proto()).additions
    assert found.quantized


def test_a_bias_that_is_added_is_no_residual_addition():
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    bias = numpy_helper.from_array(np.ones(3, np.int32), "b")
    scale = numpy_helper.from_array(np.float32([0.1]).reshape(()), "s")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("DequantizeLinear", ["b", "s"], ["bias"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in
             (("x", ["N", 4]), ("y", ["N", 3]))]  # fmt: skip
    anatomy = dissect(helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight, bias, scale])))
    assert anatomy.additions == ()
    assert [(layer.name, layer.channels) for layer in anatomy.layers] == [("MatMul -> product", ())]
    np.testing.assert_array_equal(anatomy.layers[0].channel_range, [1, 1, 1])


def test_the_layer_of_what_normalizes_and_rectifies_is_found():
    anatomy = dissect(Network(batchnorm=True).proto())
    assert anatomy.layer_of("c2.relu") == anatomy.layer_of("c2.bn") == anatomy.layer_of("c2") == "c2"
    assert anatomy.layer_of("flat") is None
