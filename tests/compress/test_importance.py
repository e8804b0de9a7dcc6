"""What a channel counts is what goes with it: added up by hand, by cutting it, and by autograd on the same batches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from edgekd import data as datasets
from edgekd import models
from edgekd.compress import channels
from edgekd.compress.importance import bn_scale, taylor
from edgekd.compress.judging import judged
from edgekd.errors import StageError
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.prune import Options
from tests.compress.small import SHAPE, Parts, conv, digit_net, given, head, kept, pooled

NETWORKS = {
    "plain": lambda: nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(6)
    ),
    "residual": lambda: Parts(
        lambda m, x: m.c(pooled((y := m.a(x)) + m.n(m.b(y)))),
        a=conv(3, 8), b=conv(8, 8), n=nn.BatchNorm2d(8), c=head(8),
    ),
    "concatenation": lambda: Parts(
        lambda m, x: m.c(pooled(torch.cat([m.a(x), m.b(x)], 1))), a=conv(3, 8), b=conv(3, 4), c=head(12)
    ),
    "depthwise": lambda: Parts(
        lambda m, x: m.c(pooled(m.b(m.a(x)))), a=conv(3, 8), b=conv(8, 8, groups=8), c=head(8)
    ),
    "grouped": lambda: Parts(lambda m, x: m.c(pooled(m.b(m.a(x)))), a=conv(3, 8), b=conv(8, 12, groups=2), c=head(12)),
    "transposed": lambda: Parts(
        lambda m, x: m.c(pooled(m.b(m.a(x)))), a=conv(3, 8), b=nn.ConvTranspose2d(8, 6, 2, 2), c=head(6)
    ),
    "flattened": lambda: Parts(lambda m, x: m.c(m.a(x).flatten(1)), a=conv(3, 8), c=head(8 * 64)),
    "group norm": lambda: Parts(
        lambda m, x: m.c(pooled(m.n(m.a(x)))), a=conv(3, 8), n=nn.GroupNorm(2, 8), c=head(8)
    ),
}  # fmt: skip


def total(model: nn.Module) -> float:
    return sum(parameter.double().sum().item() for parameter in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_channel_counts_as_much_as_all_the_weights_that_are_gone_without_it(name):
    """Every weight is its own product: a channel counts as much as the network's sum falls when it is cut."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_()
    products = {parameter: parameter.detach().clone() for parameter in model.parameters()}
    _, found = channels.groups(model, Options(), SHAPE, taylor(products))
    assert found
    for group in found:
        for index in (0, len(group.importance) - 1):
            copied = copy.deepcopy(model)
            graph, again = channels.groups(copied, Options(), SHAPE)
            same = next(one for one in again if one.name == group.name)
            size = len(group.importance)
            gone = [section * size + index for section in range(group.sections)]
            graph.get_pruning_group(same.layer, same.cut, gone).prune()
            expected = (total(model) - total(copied)) / group.sections
            if name == "residual":  # what leads from a channel to itself is of both
                expected += model.b.weight[index, index].sum().item()
            assert group.importance[index].item() == pytest.approx(expected, rel=1e-5), (group.name, index)


def test_the_scale_of_a_channel_is_the_mean_of_its_batchnorms():
    model = NETWORKS["residual"]().eval()
    model.m = nn.BatchNorm2d(8)
    model.steps = lambda m, x: m.c(pooled((y := m.m(m.a(x))) + m.n(m.b(y))))
    first, second = torch.randn(8), torch.randn(8)
    with torch.no_grad():
        model.m.weight.copy_(first)
        model.n.weight.copy_(second)
    _, (group,) = channels.groups(model, Options(), SHAPE, bn_scale)
    torch.testing.assert_close(group.importance, (first.abs() + second.abs()) / 2)


def test_layers_without_batchnorm_have_no_scale_and_are_named():
    with pytest.raises(StageError, match=r"channels of (a|b) cannot be ranked: no BatchNorm .*prune.exclude="):
        channels.groups(NETWORKS["concatenation"]().eval(), Options(), SHAPE, bn_scale)


def test_layers_compete_by_taylor_as_it_is():
    """The second layer's channels would change the loss a hundred times less than the first's: only they go."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    products = {parameter: torch.full_like(parameter, 1e-4) for parameter in model.parameters()}
    products[model[0].weight].fill_(1.0)
    products[model[4].weight][:, 4:] = 1.0
    channels.remove(model, Options(ratio=0.25, round_to=1, scope="global"), (4,), taylor(products))
    assert [model[0].out_features, model[2].out_features] == [8, 4]


@pytest.mark.parametrize("kind", ["labels", "distillation"])
def test_products_are_those_of_the_loss_written_down(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("edgekd.training.engine.threads", lambda: 1)
    student, teacher = (kept(tmp_path / name, digit_net("mlp", widths=[width])) for name, width in (("s", 6), ("t", 9)))
    teaching = Distillation(temperature=3, alpha=0.7) if kind == "distillation" else None
    inputs = given(student, teacher, teaching=teaching)
    model, guide = models.load(student.path), models.load(teacher.path)
    model[1].weight.requires_grad_(False)
    with judged(model, inputs, datasets.of(inputs), teaching, inputs.blocks["student"], 3) as judge:
        found, loss = judge.products(), judge.loss()
        assert [len(one.batch.targets) for one in judge.shown] == [32, 32, 32]
        batches = [one.batch for one in judge.shown]
    assert not model[1].weight.requires_grad
    model.requires_grad_(True)
    parameters, losses = list(model.parameters()), []
    expected = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in batches:
        answers = model(batch.inputs)
        value = cross_entropy(answers, batch.targets)
        if teaching:
            soft = kl_div(
                log_softmax(answers / 3, 1),
                log_softmax(guide(batch.inputs) / 3, 1),
                reduction="batchmean",
                log_target=True,
            )
            value = 0.3 * value + 0.7 * 9 * soft
        gradients = torch.autograd.grad(value, parameters)
        expected = [so_far + (w * g).abs() / 3 for so_far, w, g in zip(expected, parameters, gradients, strict=True)]
        losses.append(value.item())
    for parameter, product in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[parameter], product.detach(), rtol=1e-4, atol=1e-8)
    assert loss == pytest.approx(sum(losses) / 3, rel=1e-5)
