from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.nets import build
from edgekd.compress import quantization
from edgekd.device import Scheme
from edgekd.errors import StageError

U8 = Scheme(activations="u8")


def test_a_kept_state_replays_to_identical_outputs() -> None:
    model, x, _ = build("residual")
    prepared = quantization.prepare(model, (x[:2],), U8)
    quantization.calibrate(prepared, x.split(16))
    state = quantization.observed_state(prepared)
    expected = quantization.convert(prepared)

    other, _, _ = build("residual")
    for parameter in other.parameters():
        nn.init.normal_(parameter)  # what the float network holds must not matter
    replayed = quantization.prepare(other, (x[:1],), U8)
    quantization.load_observed_state(replayed, state)
    with torch.no_grad():
        assert torch.equal(quantization.convert(replayed)(x), expected(x))
        assert torch.equal(quantization.convert(prepared)(x), expected(x))  # converting leaves the prepared graph alone


def test_a_state_of_another_network_is_refused() -> None:
    model, x, _ = build("residual")
    state = quantization.observed_state(quantization.prepare(model, (x[:2],), U8))
    other, y, _ = build("mlp")
    with pytest.raises(RuntimeError, match="Missing key"):
        quantization.load_observed_state(quantization.prepare(other, (y[:2],), U8), state)


def test_the_float_network_and_its_modes_are_untouched() -> None:
    model, x, _ = build("residual")
    model.train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantization.calibrate(quantization.prepare(model, (x[:2],), U8), [x])
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_batchnorm_is_folded_and_the_batch_is_free() -> None:
    model, x, _ = build("residual")
    prepared = quantization.prepare(model, (x[:1],), U8)
    assert not [name for name in prepared.state_dict() if "running" in name]
    with torch.no_grad():
        for size in (1, 2, 7):
            torch.testing.assert_close(prepared(x[:size]), model(x[:size]), rtol=1e-4, atol=1e-4)


def test_ranges_are_the_smallest_and_largest_value_seen() -> None:
    model, x, _ = build("mlp")
    prepared = quantization.prepare(model, (x[:2],), U8)
    quantization.calibrate(prepared, x.split(10))
    (quantizer,) = (
        node
        for node in quantization.convert(prepared).graph.nodes
        if node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default
        and node.args[0].op == "placeholder"
    )
    low, high = min(0.0, float(x.min())), float(x.max())
    assert quantizer.args[1] == pytest.approx((high - low) / 255)
    assert quantizer.args[2] == round(-low * 255 / (high - low))


def test_a_dead_channel_keeps_its_bias() -> None:
    model, x, _ = build("residual")
    with torch.no_grad():
        model.norm.weight[2] = 0  # what weight decay does to a channel that nothing needs
        model.second.weight[3] = 1e-30
        model.second.bias[3] = 5.0
    prepared = quantization.prepare(model, (x[:2],), U8)
    quantization.calibrate(prepared, [x])
    with torch.no_grad():
        reference, actual = model(x), quantization.convert(prepared)(x)
    assert float((reference - actual).square().sum() / reference.square().sum()) < 1e-3


def test_an_input_that_is_always_zero_is_no_error() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3)).eval(), torch.zeros(8, 4)
    prepared = quantization.prepare(model, (x,), U8)
    quantization.calibrate(prepared, [x])
    with torch.no_grad():
        torch.testing.assert_close(quantization.convert(prepared)(x), model(x), rtol=0.01, atol=0.005)


class NoLayers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).sum(1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_nothing_to_quantize_names_the_network_and_what_it_calls() -> None:
    with pytest.raises(StageError, match=r"NoLayers has nothing to quantize.*relu"):
        quantization.prepare(NoLayers(), (torch.ones(2, 3),), U8)


def test_a_network_that_branches_on_values_is_named() -> None:
    with pytest.raises(StageError, match=r"Branching cannot be captured"):
        quantization.prepare(Branching(), (torch.ones(2, 3),), U8)


def test_calibration_needs_data() -> None:
    model, x, _ = build("mlp")
    with pytest.raises(StageError, match="no calibration data"):
        quantization.calibrate(quantization.prepare(model, (x[:2],), U8), [])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_calibration_refuses_what_is_not_finite(value: float) -> None:
    model, x, _ = build("mlp")
    x[3, 0, 0, 0] = value
    with pytest.raises(StageError, match="NaN or infinity"):
        quantization.calibrate(quantization.prepare(model, (x[:2],), U8), [x])


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.left(x) + self.right(y)


def test_a_network_of_two_inputs_takes_tuples() -> None:
    torch.manual_seed(0)
    model, x, y = TwoInputs().eval(), torch.randn(32, 4), torch.randn(32, 5)
    prepared = quantization.prepare(model, (x, y), U8)
    quantization.calibrate(prepared, [(x, y)])
    assert quantization.quantized_layers(prepared) == ["left", "right"]
    with torch.no_grad():
        torch.testing.assert_close(quantization.convert(prepared)(x, y), model(x, y), rtol=0, atol=0.05)
