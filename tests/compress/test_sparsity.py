"""The smallest weights are zero, as many as were asked for, and no optimizer moves them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekd.compress import sparsity
from edgekd.compress.channels import excluded
from edgekd.errors import StageError
from edgekd.options import Training
from edgekd.stages.prune import Options
from edgekd.training.schedule import make_optimizer


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2), nn.Conv2d(4, 8, 1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 49, 5))


def options(scope: str = "uniform", **asked) -> Options:
    return Options(ratio=0, scope=scope, sparsity=asked)


def test_in_every_layer_the_smallest_part_goes():
    model = net()
    found = sparsity.masks(model, options(ratio=0.6), set())
    assert list(found) == ["0.weight", "2.weight", "3.weight", "5.weight"]
    for name, mask in found.items():
        weight = model.get_parameter(name).detach().abs()
        assert int((~mask).sum()) == round(0.6 * weight.numel())
        assert weight[~mask].max() <= weight[mask].min()
    halfway = sparsity.masks(model, options(ratio=0.6), set(), part=0.5)
    assert all(int((~mask).sum()) == round(0.3 * mask.numel()) for mask in halfway.values())


def test_of_all_layers_together_the_smallest_part_goes():
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(3)
    found = sparsity.masks(model, options("global", ratio=0.25), set())
    weights = {name: model.get_parameter(name).detach().abs() for name in found}
    gone = torch.cat([weights[name][~mask] for name, mask in found.items()])
    stays = torch.cat([weights[name][mask] for name, mask in found.items()])
    assert len(gone) == round(0.25 * (len(gone) + len(stays)))
    assert gone.max() <= stays.min()


def test_n_of_every_m_inputs_stay():
    model = net()
    found = sparsity.masks(model, options(n=2, m=4), set())
    assert list(found) == ["2.weight", "3.weight", "5.weight"]  # 4 does not divide the first layer's three inputs
    for name in found:
        weight, mask = model.get_parameter(name).detach().abs(), found[name]
        if name == "2.weight":  # inputs first
            weight, mask = weight.transpose(0, 1), mask.transpose(0, 1)
        for columns, stays in zip(weight.split(4, 1), mask.split(4, 1), strict=True):
            assert (stays.sum(1) == 2).all()
            smallest = columns.masked_fill(~stays, torch.inf).amin(1)
            assert (smallest >= columns.masked_fill(stays, 0).amax(1)).all()
    assert sparsity.masks(model, options(n=2, m=4), set(), part=0.5) == {}


def test_excluded_layers_stay_dense():
    model = net()
    assert list(sparsity.masks(model, options(ratio=0.5), excluded(model, ["0", "3"]))) == ["2.weight", "5.weight"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_moves_all_weights_but_the_zeros(optimizer):
    model = net()
    kept = sparsity.masks(model, options(ratio=0.5), set())
    step = make_optimizer(model, Training(optimizer=optimizer, learning_rate=0.05, weight_decay=0.1))
    with sparsity.held(model, kept):
        begun = {name: model.get_parameter(name).detach().clone() for name in kept}
        for _ in range(4):
            step.zero_grad()
            model(torch.randn(16, 3, 8, 8)).square().mean().backward()
            step.step()
    for name, mask in kept.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert (weight[mask] != begun[name][mask]).all()
    told = sparsity.summary(model, kept)
    assert told["zeros"] == sum(int((~mask).sum()) for mask in kept.values())
    assert told["weights"] == 3 * 8 * 9 + 8 * 4 * 4 + 4 * 8 + 8 * 49 * 5
    assert told["dense"] == []
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    assert model[5].weight.grad[~kept["5.weight"]].any()  # the hold is over


def test_a_training_that_moves_zeros_is_an_error():
    model = net()
    kept = sparsity.masks(model, options(ratio=0.5), set())
    with (
        pytest.raises(StageError, match=r"did not keep the zeros of 0\.weight"),
        sparsity.held(model, kept),
        torch.no_grad(),
    ):
        model[0].weight.add_(1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (options("global", ratio=0.5), "would leave 0 without a weight; lower it, exclude the layer"),
        (options(n=1, m=5), "no layer has inputs that 5 divides"),
    ],
)
def test_what_cannot_be(asked, message):
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
    with pytest.raises(StageError, match=message):
        sparsity.masks(model, asked, set())
