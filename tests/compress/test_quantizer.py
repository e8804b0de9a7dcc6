from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compress.nets import NETWORKS, build
from edgekd.compress import quantization
from edgekd.compress.quantizer import CONVOLUTIONS, LAYERS
from edgekd.device import Scheme

aten = torch.ops.aten
decomposed = torch.ops.quantized_decomposed

U8 = Scheme(activations="u8")
REDUCED = Scheme(activations="u8", reduce_range=True)
S8 = Scheme(activations="s8")
SYMMETRIC = Scheme(activations="s8", symmetric=True)
MOVES = {aten.flatten.using_ints, aten.max_pool2d.default, aten.max_pool1d.default, aten.view.default}


def quantized(model: nn.Module, x: Tensor, scheme: Scheme) -> GraphModule:
    prepared = quantization.prepare(model, (x[:2],), scheme)
    quantization.calibrate(prepared, x.split(16))
    return quantization.convert(prepared)


def calls(graph: GraphModule, *targets: object) -> list[Node]:
    return [node for node in graph.graph.nodes if node.op == "call_function" and node.target in targets]


def origin(node: Node) -> Node:
    """The node that computed a value, behind what only moved it."""
    while node.target in MOVES:
        node = node.args[0]
    return node


def activation_quantizers(graph: GraphModule) -> list[Node]:
    return calls(graph, decomposed.quantize_per_tensor.default)


def sqnr_db(reference: Tensor, actual: Tensor) -> float:
    return 10 * math.log10(float(reference.square().sum() / (reference - actual).square().sum()))


@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((name, scheme) for name in NETWORKS for scheme in (U8, SYMMETRIC)), ("residual", REDUCED), ("residual", S8)],
    ids=lambda value: getattr(value, "label", value),
)
def test_every_layer_computes_on_integers_and_the_answer_stays(name: str, scheme: Scheme) -> None:
    model, x, layers = build(name)
    converted = quantized(model, x, scheme)
    assert quantization.quantized_layers(converted) == layers
    for layer in calls(converted, *LAYERS):
        assert origin(layer.args[0]).target is decomposed.dequantize_per_tensor.default
        assert layer.args[1].target is decomposed.dequantize_per_channel.default
    with torch.no_grad():
        reference, actual = model(x), converted(x)
    if name != "two outputs":
        reference, actual = (reference,), (actual,)
    for expected, given in zip(reference, actual, strict=True):
        assert sqnr_db(expected, given) > 30  # an 8-bit value alone has 40 dB and more; layers add their noise


@pytest.mark.parametrize(
    ("scheme", "dtype", "low", "high"),
    [(U8, torch.uint8, 0, 255), (S8, torch.int8, -128, 127), (SYMMETRIC, torch.int8, -128, 127)],
    ids=lambda value: getattr(value, "label", None),
)
def test_activations_have_the_type_of_the_scheme(scheme: Scheme, dtype: torch.dtype, low: int, high: int) -> None:
    model, x, _ = build("residual")
    found = activation_quantizers(quantized(model, x, scheme))
    assert {node.args[3:] for node in found} == {(low, high, dtype)}
    after_relu = [node.args[2] for node in found if node.args[0].target is aten.relu.default]
    assert set(after_relu) == {0 if scheme.symmetric else low}  # a ReLU's range begins at zero
    if scheme.symmetric:
        assert {node.args[2] for node in found} == {0}


@pytest.mark.parametrize(
    ("scheme", "limit"), [(U8, 127), (REDUCED, 64), (Scheme(activations="u8", weights="per-tensor"), 127)]
)
def test_weights_are_symmetric_integers_of_8_or_7_bits(scheme: Scheme, limit: int) -> None:
    model, x, _ = build("mobile")
    converted = quantized(model, x, scheme)
    weights = dict(converted.named_buffers())
    for layer in calls(converted, *LAYERS):
        stored, scale, zero_point = layer.args[1].args[:3]
        integers = weights[stored.target]
        assert integers.dtype == torch.int8
        assert int(integers.abs().max()) == limit  # the full range is used, and no more
        if scheme.weights == "per-channel":
            scales = weights[scale.target]
            assert scales.shape == (len(integers),)
            assert not weights[zero_point.target].any()
            assert bool((integers.abs().flatten(1).amax(1) == limit).all())
        else:
            assert zero_point == 0


@pytest.mark.parametrize(("scheme", "stored"), [(U8, torch.int32), (S8, torch.int32), (SYMMETRIC, torch.float32)])
def test_biases_have_the_scale_of_the_product_they_join(scheme: Scheme, stored: torch.dtype) -> None:
    model, x, _ = build("mlp")
    converted = quantized(model, x, scheme)
    buffers = {**dict(converted.named_buffers()), **dict(converted.named_parameters())}
    for layer in calls(converted, *LAYERS):
        bias = layer.args[2]
        if stored is torch.float32:
            assert bias.op == "get_attr"
            continue
        assert buffers[bias.args[0].target].dtype == stored
        weight_scale = buffers[layer.args[1].args[1].target]
        torch.testing.assert_close(buffers[bias.args[1].target], weight_scale * origin(layer.args[0]).args[1])


def test_nothing_is_rounded_between_a_kernel_and_its_activation() -> None:
    model, x, _ = build("mobile")
    converted = quantized(model, x, U8)
    for activation in calls(converted, aten.hardtanh.default, aten.relu6.default):
        assert activation.args[0].target in CONVOLUTIONS
        assert [user.target for user in activation.users] == [decomposed.quantize_per_tensor.default]


def test_additions_and_pools_take_and_give_integers() -> None:
    model, x, _ = build("residual")
    converted = quantized(model, x, U8)
    additions = calls(converted, aten.add.Tensor)
    assert len(additions) == 2
    for addition in additions:
        assert [value.target for value in addition.args] == [decomposed.dequantize_per_tensor.default] * 2
        (activation,) = addition.users
        assert [user.target for user in activation.users] == [decomposed.quantize_per_tensor.default]
    (pool,) = calls(converted, aten.adaptive_avg_pool2d.default)  # what was a mean
    assert [user.target for user in pool.users] == [decomposed.quantize_per_tensor.default]
    assert not calls(converted, aten.mean.dim)


def test_additions_stay_float_where_the_scheme_says_so() -> None:
    model, x, _ = build("residual")
    with_adds, without = (
        len(activation_quantizers(quantized(model, x, Scheme(activations="u8", quantize_add=add))))
        for add in (True, False)
    )
    # Convolutions give integers, and layers take them, whatever the additions do: only the pool's own input is left.
    assert without == with_adds - 1


def test_moved_values_are_quantized_once_and_logits_not_at_all() -> None:
    model, x, _ = build("mlp")
    converted = quantized(model, x, U8)
    (flatten,) = calls(converted, aten.flatten.using_ints)
    assert flatten.args[0].target is decomposed.dequantize_per_tensor.default
    assert flatten.args[0].args[0].args[0].op == "placeholder"
    assert [user.target for user in flatten.users] == [aten.linear.default]
    (output,) = (node for node in converted.graph.nodes if node.op == "output")
    assert [value.target for value in output.args[0]] == [aten.linear.default]


def test_rounding_noise_of_a_linear_layer_is_what_uniform_rounding_gives() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(256, 64), torch.rand(512, 256) * 4 - 1
    converted = quantized(nn.Sequential(layer), x, U8)
    (quantizer,) = activation_quantizers(converted)
    input_step = quantizer.args[1]
    assert input_step == pytest.approx(float(x.max() - x.min()) / 255)
    with torch.no_grad():
        weight_steps = layer.weight.abs().amax(1) / 127
        # A step's rounding error has variance step^2 / 12, independent of the value (Widrow, 1956).
        noise = (
            input_step**2 / 12 * layer.weight.square().sum(1) + weight_steps**2 / 12 * x.square().sum(1).mean()
        ).mean()
        expected = 10 * math.log10(float(layer(x).square().mean() / noise))
        assert sqnr_db(layer(x), converted(x)) == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize(
    ("name", "shape", "additions"), [("mlp", (1, 8, 8), 0), ("convnet", (1, 8, 8), 0), ("resnet", (3, 8, 8), 3)]
)
def test_our_networks_have_what_tensorrt_wants(name: str, shape: tuple[int, ...], additions: int) -> None:
    """Signed integers around zero, float biases, residual additions with integers on both sides."""
    torch.manual_seed(3)
    model = importlib.import_module(f"edgekd.models.{name}").build(input_shape=shape, classes=5).eval()
    x = torch.randn(32, *shape)
    converted = quantized(model, x, SYMMETRIC)
    quantizers = activation_quantizers(converted)
    assert {node.args[2:] for node in quantizers} == {(0, -128, 127, torch.int8)}
    buffers = dict(converted.named_buffers())
    for layer in calls(converted, *LAYERS):
        stored, _, zero_points, axis = layer.args[1].args[:4]
        integers = buffers[stored.target]
        assert axis == 0
        assert integers.dtype == torch.int8
        assert int(integers.abs().max()) == 127
        assert not buffers[zero_points.target].any()
        bias = layer.args[2]
        assert bias is None or bias.op == "get_attr"
    found = calls(converted, aten.add.Tensor, aten.add_.Tensor)
    assert len(found) == additions
    for addition in found:
        assert {origin(value).target for value in addition.args} == {decomposed.dequantize_per_tensor.default}
    with torch.no_grad():
        assert sqnr_db(model(x), converted(x)) > 30
