from __future__ import annotations

from itertools import product

import pytest
import torch

from compress.nets import NETWORKS, build
from edgekd.compress import quantization, rounding
from edgekd.compress.prepared import layers
from edgekd.device import Scheme

U8 = Scheme(activations="u8")


@pytest.mark.parametrize("name", NETWORKS)
def test_columns_times_the_weight_are_what_the_layer_gives(name: str) -> None:
    model, x, _ = build(name)
    prepared = quantization.prepare(model, (x[:2],), U8)
    for layer in layers(prepared):
        module = model.get_submodule(layer.name)
        sides = layer.weight.dim() - 2
        given = torch.randn(3, layer.weight.shape[1] * layer.groups, *[8] * sides)
        with torch.no_grad():
            weight = module.weight.view(layer.groups, len(module.weight) // layer.groups, -1)
            made = (weight @ rounding.columns(layer, given)).flatten(0, 1)
            expected = module(given) - (0 if module.bias is None else module.bias.view(-1, *[1] * sides))
        torch.testing.assert_close(made, expected.movedim(1, 0).flatten(1), rtol=1e-4, atol=1e-4)


def test_no_single_other_choice_is_better_and_few_weights_get_nearly_the_best_of_all() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 8, dtype=torch.float64) @ torch.randn(8, 8, dtype=torch.float64)
    own, weight = x.T @ x / 500, torch.randn(5, 8, dtype=torch.float64)
    scale = weight.abs().amax(1, keepdim=True) / 7
    found = rounding.turned(weight[None], scale[None], own[None], own[None], (-7, 7))[0]
    errors, nearest, better = [], [], []
    for of, unit, row in zip(weight, scale, found, strict=True):

        def error(one: torch.Tensor, of: torch.Tensor = of) -> float:
            return float((one - of) @ own @ (one - of))

        low = (of / unit).floor()
        choices = [(low + torch.tensor(up)).clamp(-7, 7) * unit for up in product((0, 1), repeat=8)]
        assert min(float((one - row).abs().max()) for one in choices) < 1e-12
        near = [one for one in choices if int(((one - row).abs() > 1e-9).sum()) == 1]
        assert all(error(row) <= error(one) + 1e-12 for one in near)
        errors.append(error(row))
        nearest.append(error((of / unit).round() * unit))
        better.append(sum(error(one) < error(row) - 1e-12 for one in choices))
    assert all(one <= other + 1e-12 for one, other in zip(errors, nearest, strict=True))
    assert sum(errors) < 0.7 * sum(nearest)
    assert max(better) < 16  # of 256


def test_a_network_gets_nearer_to_its_floats_and_replays_to_the_bit() -> None:
    model, x, _ = build("residual")
    prepared = quantization.prepare(model, (x[:2],), U8, 4)
    quantization.calibrate(prepared, x.split(16))
    with torch.no_grad():
        expected = model(x)
        before = (quantization.convert(prepared)(x) - expected).square().mean()
        rounding.round_weights(prepared, quantization.duplicate(prepared), x.split(32))
        for layer in layers(prepared):
            integers = layer.weight.flatten(1) / layer.observer.calculate_qparams()[0][:, None]
            torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-5)
        found = quantization.convert(prepared)(x)
        assert float((found - expected).square().mean()) < 0.5 * float(before)
        again = quantization.prepare(build("residual")[0], (x[:1],), U8, 4)
        quantization.load_observed_state(again, quantization.observed_state(prepared))
        assert torch.equal(quantization.convert(again)(x), found)
