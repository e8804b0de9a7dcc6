"""What TensorRT refuses, node by node, and the form of weights that all of its releases read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgekd import profiles
from edgekd.compress import quantization
from edgekd.device import scheme
from edgekd.graph.export import export_onnx
from edgekd.graph.float_weights import with_float_weights
from edgekd.graph.half import to_half
from edgekd.graph.parity import compare, run_onnx
from edgekd.graph.qdq import problems, refusal
from edgekd.models import resnet

WEIGHT = np.random.default_rng(5).standard_normal((4, 4, 1, 1)).astype(np.float32)


def constant(name: str, value: Any, dtype: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


class Net:
    """A graph in the making: nodes named after their outputs, constants after their users."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[TensorProto] = []

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        domain = attributes.pop("domain", "")
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, domain=domain, **attributes))
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants.append(constant(name, value, dtype))
        return name

    def pair(self, name: str, source: str, scale: Any = 0.05, zero: Any = 0, dtype: Any = np.int8, **more: Any) -> str:
        """Q and DQ behind a value."""
        taken = [self.constant(f"{name}_s", scale), self.constant(f"{name}_z", zero, dtype)]
        self.node("QuantizeLinear", f"{name}_q", source, *taken, **more)
        return self.node("DequantizeLinear", name, f"{name}_q", *taken, **more)

    def weight(
        self, name: str, value: np.ndarray = WEIGHT, *, axis: int | None = 0, dtype: Any = np.int8, zero: int = 0
    ) -> str:
        """A stored integer weight and its DQ."""
        others = tuple(place for place in range(value.ndim) if place != axis)
        scale = np.abs(value).max() / 127 if axis is None else np.abs(value).max(others, keepdims=True) / 127
        self.constant(f"{name}_i", np.round(value / scale) + zero, dtype)
        shape = () if axis is None else (value.shape[axis],)
        self.constant(f"{name}_s", np.reshape(scale, shape))
        self.constant(f"{name}_z", np.full(shape, zero), dtype)
        more = {} if axis is None else {"axis": axis}
        return self.node("DequantizeLinear", name, f"{name}_i", f"{name}_s", f"{name}_z", **more)

    def conv(self, name: str, source: str, **weight: Any) -> str:
        return self.node("Conv", name, source, self.weight(f"{name}.weight", **weight))

    def proto(self, output: str, rank: int = 4) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 3, 3])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["?"] * rank)],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def found(net: Net, output: str) -> list[tuple[str, str, bool]]:
    return [(problem.node, problem.reason, problem.fatal) for problem in problems(net.proto(output))]


def block(residual: bool = True) -> Net:
    """x -> conv -> + -> conv, everything quantized as TensorRT wants it."""
    net = Net()
    x = net.pair("in", "x")
    first = net.pair("mid", net.conv("first", x))
    total = net.node("Add", "sum", first, x)
    last = net.node("MaxPool", "pool", net.pair("sums", total), kernel_shape=[1, 1])
    net.conv("last", last)
    return net


def test_what_tensorrt_wants_has_no_problem():
    assert found(block(), "last") == []
    assert refusal(block().proto("last")) is None


def test_a_float_network_has_no_problem():
    net = Net()
    net.constant("w", WEIGHT)
    total = net.node("Add", "sum", net.node("Conv", "conv", "x", "w"), "x")
    net.node("Softmax", "out", total)
    assert found(net, "out") == []


@pytest.mark.parametrize(("dtype", "zero"), [(np.uint8, 128), (np.uint8, 3), (np.int8, -128)])
def test_zero_points_must_be_zero(dtype: Any, zero: int):
    net = Net()
    net.conv("conv", net.pair("in", "x", zero=zero, dtype=dtype))
    assert found(net, "conv") == [(name, f"has zero point {zero}", True) for name in ("in_q", "in")]
    assert "in_q has zero point" in refusal(net.proto("conv"))
    assert "symmetric: true" in refusal(net.proto("conv"))


def test_unsigned_integers_are_refused_even_around_zero():
    """TensorRT would take them for signed ones: 200 becomes -56."""
    net = Net()
    net.conv("conv", net.pair("in", "x", dtype=np.uint8))
    assert found(net, "conv") == [("in_q", "uses uint8", True), ("in", "uses uint8", True)]


def test_a_q_without_zero_point_gives_unsigned_integers():
    net = Net()
    scale = net.constant("s", 0.05)
    net.conv("conv", net.node("DequantizeLinear", "in", net.node("QuantizeLinear", "in_q", "x", scale), scale))
    assert [node for node, _, _ in found(net, "conv")] == ["in_q", "in"]
    net.nodes[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))  # opset 21
    assert found(net, "conv") == []


def test_a_softmax_with_a_range_of_its_own_is_told_apart():
    net = Net()
    net.conv("conv", net.pair("p", net.node("Softmax", "softmax", "x", axis=1), scale=1 / 256, zero=-128))
    (first, second) = problems(net.proto("conv"))
    assert (first.node, first.reason) == ("p_q", "has zero point -128")
    assert "leave the softmax in float" in first.remedy
    assert second.node == "p"


def test_activations_have_one_scale():
    net = Net()
    net.conv("conv", net.pair("in", "x", scale=[0.1, 0.2, 0.3, 0.4], zero=[0] * 4, axis=1))
    assert {(node, reason) for node, reason, _ in found(net, "conv")} == {
        ("in_q", "has a scale for each channel of an activation"),
        ("in", "has a scale for each channel of an activation"),
    }


@pytest.mark.parametrize(
    ("kind", "attributes", "right"),
    [("Conv", {}, 0), ("ConvTranspose", {}, 1), ("Gemm", {"transB": 1}, 0), ("Gemm", {}, 1), ("MatMul", {}, 1)],
)
def test_scales_of_weights_lie_along_the_output_channels(kind: str, attributes: dict[str, int], right: int):
    value = WEIGHT if "Conv" in kind else WEIGHT.reshape(4, 4)
    for axis in (0, 1, None):
        net = Net()
        net.node(kind, "out", net.pair("in", "x"), net.weight("w", value, axis=axis), **attributes)
        expected = [("w", f"has its scales along axis {axis} of the weight of out", True)]
        assert found(net, "out") == ([] if axis in (right, None) else expected)


def test_a_transposed_weight_is_followed():
    """How linear layers over sequences are exported: a weight [out, in], turned around before the product."""
    for axis, problem in ((0, False), (1, True)):
        net = Net()
        weight = net.node("Transpose", "turned", net.weight("w", WEIGHT.reshape(4, 4), axis=axis), perm=[1, 0])
        net.node("MatMul", "out", net.pair("in", "x"), weight)
        assert bool(found(net, "out")) == problem


@pytest.mark.parametrize(("dtype", "zero", "told"), [(np.uint8, 128, "has zero point 128"), (np.int8, 5, "zero point")])
def test_weights_are_signed_and_around_zero(dtype: Any, zero: int, told: str):
    net = Net()
    net.conv("conv", net.pair("in", "x"), dtype=dtype, zero=zero)
    ((node, reason, fatal),) = found(net, "conv")
    assert node == "conv.weight"
    assert told in reason
    assert fatal


def test_biases_stay_float():
    net = Net()
    scale = net.constant("bias_s", [0.001] * 4)
    bias = net.node("DequantizeLinear", "bias", net.constant("bias_i", [1, 2, 3, 4], np.int32), scale, axis=0)
    net.node("Conv", "conv", net.pair("in", "x"), net.weight("w"), bias)
    assert found(net, "conv") == [("bias", "dequantizes a 32-bit integer, a bias", True)]
    assert refusal(net.proto("conv")).endswith("bias dequantizes a 32-bit integer, a bias: leave biases in float")


def test_scales_are_constants():
    net = Net()
    scale = net.node("ReduceMax", "scale", "x", keepdims=0)
    zero = net.constant("z", 0, np.int8)
    quantized = net.node("QuantizeLinear", "in_q", "x", scale, zero)
    net.conv("conv", net.node("DequantizeLinear", "in", quantized, scale, zero))
    reason = "has a scale that is computed while the network runs"
    assert found(net, "conv") == [("in_q", reason, True), ("in", reason, True)]


def test_scales_may_be_constant_nodes():
    net = block()
    scale = next(tensor for tensor in net.constants if tensor.name == "in_s")
    net.constants.remove(scale)
    net.nodes.insert(0, helper.make_node("Constant", [], ["in_s"], value=scale))
    assert found(net, "last") == []


def test_q_and_dq_come_in_pairs():
    net = Net()
    zero, scale = net.constant("z", 0, np.int8), net.constant("s", 0.1)
    net.node("QuantizeLinear", "out", net.conv("conv", net.pair("in", "x")), scale, zero)
    assert found(net, "out") == [("out", "has no DequantizeLinear behind it", True)]
    net = Net()
    zero, scale = net.constant("z", 0, np.int8), net.constant("s", 0.1)
    net.conv(
        "conv", net.node("DequantizeLinear", "in", net.node("Cast", "bytes", "x", to=TensorProto.INT8), scale, zero)
    )
    assert found(net, "conv") == [("in", "has no QuantizeLinear before it", True)]


def test_operators_that_compute_on_integers_are_refused():
    net = Net()
    net.node("DynamicQuantizeLinear", "dynamic", "x")
    net.node("QuantizeLinear", "foreign", "x", net.constant("s", 0.1), domain="com.microsoft")
    names = [(node, fatal) for node, _, fatal in found(net, "dynamic")]
    assert names == [("dynamic", True), ("foreign", True)]


def test_a_layer_with_one_quantized_operand_runs_but_in_float():
    net = Net()
    net.conv("conv", "x")
    net.node("Conv", "out", net.pair("mid", "conv"), net.constant("w", WEIGHT))
    assert found(net, "out") == [
        ("conv", "computes in float: its weight is quantized, its input is not", False),
        ("out", "computes in float: its input is quantized, its weight is not", False),
    ]
    assert refusal(net.proto("out")) is None  # it is sent, and measured


def test_an_unquantized_branch_of_an_addition_is_told():
    net = block()
    first = next(node for node in net.nodes if node.name == "sum")
    first.input[0] = net.node("Relu", "bare", "x")
    net.nodes.insert(0, net.nodes.pop())
    ((node, reason, fatal),) = found(net, "last")
    assert (node, fatal) == ("sum", False)
    assert "one of its branches is quantized" in reason


def test_an_addition_may_take_a_quantized_layers_own_output():
    """The kernel of the layer adds the other branch, before it rounds."""
    net = block()
    next(node for node in net.nodes if node.name == "sum").input[0] = "first"
    assert found(net, "last") == []


def test_many_problems_are_told_in_one_bounded_sentence():
    net = Net()
    value = "x"
    for index in range(5):
        value = net.conv(f"conv{index}", net.pair(f"in{index}", value, zero=7), axis=1)
    text = refusal(net.proto(value))
    assert text.startswith("TensorRT does not take this quantization: in0_q has zero point 7: ")
    assert text.endswith("and 12 more like these")


def run(proto: ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("axis", [0, None])
def test_weights_as_floats_give_the_same_integers(axis: int | None):
    net = block()
    last = net.conv("third", "last", value=WEIGHT * 1e-4, axis=axis)
    proto = net.proto(last)
    changed = with_float_weights(proto)
    onnx.checker.check_model(changed, full_check=True)
    assert problems(changed) == problems(proto)
    assert not any(
        tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1 for tensor in changed.graph.initializer
    )
    x = np.random.default_rng(0).standard_normal((7, 4, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(run(changed, x), run(proto, x))
    assert proto == net.proto(last)  # the given one is left alone


def test_every_integer_survives_the_way_through_floats():
    """All 256 integers, with scales from where float32 is coarse to where it is fine."""
    integers = np.arange(-128, 128, dtype=np.int8)
    scales = np.random.default_rng(1).uniform(1e-6, 10, 64).astype(np.float32)
    net = Net()
    stored = net.constant("i", np.tile(integers, (64, 1)), np.int8)
    net.node("DequantizeLinear", "w", stored, net.constant("s", scales), axis=0)
    changed = with_float_weights(net.proto("w", rank=2))
    floats = numpy_helper.to_array(next(tensor for tensor in changed.graph.initializer if tensor.name == "w_floats"))
    np.testing.assert_array_equal(np.rint(floats / scales[:, None]), np.tile(integers, (64, 1)).astype(np.float32))
    changed.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("w_quantized", TensorProto.INT8, ["?"] * 2)
    )  # what the Q itself gives, its missing zero point made
    got = run(changed, np.zeros((1, 4, 3, 3), np.float32))
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, np.tile(integers, (64, 1)))


class Attention(nn.Module):
    """A transformer's block over six positions: layer norm, attention in one head, a residual addition."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(12, 16), nn.LayerNorm(16)
        self.qkv, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out((q @ k.transpose(1, 2) / 4).softmax(-1) @ v)
        logits: Tensor = self.head(x.mean(1))
        return logits


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda: resnet.build(input_shape=(3, 8, 8), classes=5, width=8, blocks=(1, 1)), (3, 8, 8)), (Attention, (6, 12))],
    ids=["resnet", "attention"],
)
def test_what_we_export_for_tensorrt_is_what_it_wants(make: Any, shape: tuple[int, ...], tmp_path: Path):
    torch.manual_seed(1)
    model, x = make().eval(), torch.randn(128, *shape)
    prepared = quantization.prepare(model, (x[:2],), scheme(profiles.load_device("jetson").quantization))
    quantization.calibrate(prepared, x.split(32))
    converted = quantization.convert(prepared)
    count = len(quantization.quantized_layers(prepared))
    facts = export_onnx(
        converted,
        (x[:1],),
        tmp_path / "m.onnx",
        input_names=["x"],
        output_names=["y"],
        metadata={},
        max_opset=17,
        quantized_layers=count,
    )
    assert (facts.opset, facts.quantized_layers) == (17, count)
    proto = onnx.load(tmp_path / "m.onnx")
    assert [str(problem) for problem in problems(proto)] == []
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    assert kinds <= {TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT64}  # no integer biases
    with torch.no_grad():
        answers = [{"y": network(x).numpy()} for network in (model, converted)]
    onnx.save(with_float_weights(proto), tmp_path / "floats.onnx")
    to_half(tmp_path / "m.onnx", tmp_path / "half.onnx")
    for file, near in (("m", 50), ("floats", 50), ("half", 30)):
        given = run_onnx(tmp_path / f"{file}.onnx", {"x": x.numpy()}, batch=64)
        against_float, against_integers = (compare(answer, given)["y"] for answer in answers)
        assert against_integers.sqnr_db > near
        assert against_float.sqnr_db > 28
        assert against_float.top1_agreement > 0.95
