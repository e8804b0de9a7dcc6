from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.nets import build
from edgekd.compress import fake_quantization, naming, quantization
from edgekd.compress.fake_quantization import FOLLOWED, FROZEN_AFTER, FakeActivation, FakeWeight
from edgekd.compress.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from edgekd.device import Scheme
from edgekd.distill.layers import layers, usual
from edgekd.errors import StageError

U8 = Scheme(activations="u8")


def activation(low: float, high: float, updates: int = 0) -> FakeActivation:
    observer = MinMaxObserver(dtype=torch.uint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=255)
    observer(torch.tensor([low, high]))
    return FakeActivation(observer, (1.0, 1.0), updates)


def weights(limit: int = 127) -> FakeWeight:
    return FakeWeight(
        PerChannelMinMaxObserver(
            dtype=torch.int8, qscheme=torch.per_channel_symmetric, quant_min=-limit, quant_max=limit, ch_axis=0
        )
    )


def loaded(fake: FakeWeight, weight: Tensor) -> FakeWeight:
    fake.observer(weight)
    return fake


def test_an_activation_is_rounded_to_the_integers_of_its_range_and_its_gradient_passes_within() -> None:
    torch.manual_seed(0)
    x = (torch.rand(101) * 5 - 2).requires_grad_()
    given = activation(-1.0, 2.0)(x)
    scale = 3 / 255
    zero = round(1 / scale)
    expected = (np.clip(np.rint(x.detach().double().numpy() / scale) + zero, 0, 255) - zero) * scale
    assert np.allclose(given.detach().numpy(), expected, atol=1e-6)
    (given * torch.arange(101)).sum().backward()
    inside = (x >= -1.0 - scale / 2) & (x <= 2.0 + scale / 2)
    assert torch.equal(x.grad, torch.where(inside, torch.arange(101.0), 0.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_ran_away_is_told_and_not_rounded(value: float) -> None:
    for fake in (activation(-1.0, 2.0, updates=1), loaded(weights(), torch.ones(2, 2))):
        with pytest.raises(StageError, match=r"ran away.*lower quantize\.learning_rate"):
            fake(torch.tensor([[0.5, value], [1.0, 2.0]]))


@pytest.mark.parametrize("limit", [127, 64, 7])
def test_a_weight_is_rounded_by_the_largest_of_its_channel_and_its_gradient_passes(limit: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 2, 2, requires_grad=True)
    given = loaded(weights(limit), weight)(weight)
    scale = weight.detach().abs().flatten(1).amax(1).double().numpy().reshape(4, 1, 1, 1) / limit
    assert np.allclose(given.detach().numpy(), np.rint(weight.detach().numpy() / scale) * scale, atol=1e-6)
    coefficients = torch.randn_like(weight)
    (given * coefficients).sum().backward()
    assert torch.equal(weight.grad, coefficients)


def test_the_range_of_a_weight_is_that_of_its_present_values() -> None:
    fake = loaded(weights(), torch.full((2, 3), 100.0))
    weight = torch.tensor([[0.5, -1.0, 0.0], [0.25, 0.0, 0.0]])
    for mode in (True, False):
        assert float((fake.train(mode)(weight) - weight).abs().max()) <= 0.5 / 127
    assert fake.observer.min_val.tolist() == [-1.0, 0.0]


def test_the_range_of_an_activation_follows_the_batches_and_freezes() -> None:
    fake = activation(-1.0, 2.0, updates=2)
    fake.eval()(torch.tensor([-50.0, 50.0]))
    assert (float(fake.observer.min_val), float(fake.observer.max_val)) == (-1.0, 2.0)
    low, high = -1.0, 2.0
    fake.train()
    for bound in (4.0, 8.0):
        fake(torch.tensor([-bound, 3 * bound]))
        low, high = low + FOLLOWED * (-bound - low), high + FOLLOWED * (3 * bound - high)
    for _ in range(3):
        fake(torch.tensor([-1000.0, 1000.0]))
    assert float(fake.observer.min_val) == pytest.approx(low)
    assert float(fake.observer.max_val) == pytest.approx(high)


def test_what_calibration_cut_off_stays_cut_off() -> None:
    fake = activation(-1.0, 2.0, updates=1000)
    fake._kept = (0.5, 0.25)
    for _ in range(1000):
        fake(torch.tensor([-4.0, 16.0]))
    assert float(fake.observer.min_val) == pytest.approx(-2.0, rel=0.01)
    assert float(fake.observer.max_val) == pytest.approx(4.0, rel=0.01)


def calls(graph: torch.fx.GraphModule) -> list[tuple[str, str]]:
    return [(node.op, str(node.target)) for node in graph.graph.nodes]


@pytest.mark.parametrize("name", ["residual", "mobile"])
def test_the_trained_graph_has_the_form_of_the_calibrated_one(name: str) -> None:
    """And computes while it is trained what it computes when it is converted."""
    model, x, _ = build(name)
    prepared = quantization.prepare(model, (x[:2],), U8)
    quantization.calibrate(prepared, x.split(16))
    state = list(prepared.state_dict())
    form, before = calls(quantization.convert(prepared)), quantization.observed_state(prepared)
    observers = fake_quantization.begin(prepared, {}, forwards=6)
    prepared.train()
    assert len(list(prepared.parameters())) == 2 * len(quantization.quantized_layers(prepared))
    optimizer = torch.optim.SGD(prepared.parameters(), 0.05)
    for _ in range(6):
        prepared(x[:16]).square().mean().backward()
        assert all(parameter.grad is not None for parameter in prepared.parameters())
        optimizer.step()
        optimizer.zero_grad()
    counters = [int(tensor) for key, tensor in prepared.state_dict().items() if key.endswith(".seen")]
    assert set(counters) == {round(6 * FROZEN_AFTER)}
    with torch.no_grad():
        faked = prepared.eval()(x)
    fake_quantization.end(prepared, observers)
    assert list(prepared.state_dict()) == state
    after = prepared.state_dict()
    assert any(not torch.equal(after[key], before[key]) for key in state if key.endswith("weight"))
    converted = quantization.convert(prepared)
    assert calls(converted) == form
    with torch.no_grad():
        difference = (converted(x) - faked).square().sum() / faked.square().sum()
    assert float(difference) < 1e-3  # integers have a step of 1/255; a value between two may go either way


def test_named_layers_are_found_in_the_graph_and_give_what_they_gave() -> None:
    model, x, _ = build("residual")
    prepared = quantization.prepare(model, (x[:2],), U8)
    quantization.calibrate(prepared, x.split(16))
    with torch.no_grad():
        expected = quantization.convert(prepared)(x)
    state, form = list(prepared.state_dict()), calls(prepared)
    observers = fake_quantization.begin(prepared, {}, 1)
    naming.name_layers(prepared)
    assert list(prepared.state_dict()).count("stem.0.weight") == 1
    own, found = layers(model, x), layers(prepared, x)
    shapes = {layer.name: (layer.shape, layer.given) for layer in own}
    assert {layer.name: (layer.shape, layer.given) for layer in found} == {
        name: shape
        for name, shape in shapes.items()
        if name not in ("stem.1", "norm")  # BatchNorm is folded
    }
    for kind in ("map", "embedding"):
        assert usual(found, kind, "student") == usual(own, kind, "student")
    seen: dict[str, list[Tensor]] = {}
    for network in (model, prepared):
        for name in ("stem", "second", "head"):
            network.get_submodule(name).register_forward_hook(
                lambda _, given, result, name=name: seen.setdefault(name, []).append(result)
            )
        with torch.no_grad():
            network(x)
    for reference, actual in seen.values():
        assert float((reference - actual).square().sum() / reference.square().sum()) < 1e-3
    naming.forget_layers(prepared)
    fake_quantization.end(prepared, observers)
    assert calls(prepared) == form
    assert list(prepared.state_dict()) == state
    with torch.no_grad():
        assert torch.equal(quantization.convert(prepared)(x), expected)


def test_a_bias_that_folding_made_is_trained() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    x = torch.rand(8, 1, 5, 5)
    prepared = quantization.prepare(model, (x,), U8)
    quantization.calibrate(prepared, [x])
    fake_quantization.begin(prepared, {}, 1)
    prepared(x).sum().backward()
    assert {tuple(parameter.shape) for parameter in prepared.parameters()} == {(4, 1, 3, 3), (4,)}
    assert all(parameter.grad is not None for parameter in prepared.parameters())
