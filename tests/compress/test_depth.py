"""Blocks that only add to what they are given can go; which, the loss says."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from edgekd import models
from edgekd.compress import depth
from edgekd.errors import StageError
from edgekd.models import Description
from tests.compress.small import SHAPE, Parts, conv, head, pooled

RESNET = Description(
    "edgekd.models.resnet:build", {"input_shape": SHAPE, "classes": 5, "width": 8, "blocks": (3, 2)}, SHAPE
)


def built() -> nn.Module:
    torch.manual_seed(0)
    return models.create(RESNET)


def test_the_blocks_are_those_that_keep_the_shape():
    """The first block of the second stage halves the image, so that its shortcut is a convolution."""
    model = built()
    assert depth.blocks(model, models.example(SHAPE), set()) == [
        "stages.0.0", "stages.0.1", "stages.0.2", "stages.1.1"
    ]  # fmt: skip
    untouched = {model.stages[0][1].conv2, *model.stages[1].modules()}
    assert depth.blocks(model, models.example(SHAPE), untouched) == ["stages.0.0", "stages.0.2"]


OTHERS = {
    "a gate multiplies": (lambda m, x: x * m.g(pooled(x)).sigmoid()[:, :, None, None], {"g": nn.Linear(8, 8)}),
    "nothing is added": (lambda m, x: relu(m.a(x)), {"a": conv(8, 8)}),
    "a convolution is on the shortcut": (lambda m, x: m.a(x) + m.b(x), {"a": conv(8, 8), "b": conv(8, 8)}),
    "a linear layer with a bias adds": (lambda m, x: m.g(x), {"g": nn.Linear(8, 8)}),
    "it has no weights": (lambda _, x: relu(x) + x, {}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_residual_block(name):
    forward, layers = OTHERS[name]
    model = Parts(lambda m, x: m.c(pooled(m.body(m.a(x)))), a=conv(3, 8), body=Parts(forward, **layers), c=head(8))
    assert depth.blocks(model.eval(), models.example(SHAPE), set()) == []


def test_a_block_that_is_called_twice_stays():
    body = Parts(lambda m, x: x + m.a(x), a=conv(8, 8))
    once = Parts(lambda m, x: m.c(pooled(m.body(m.a(x)))), a=conv(3, 8), body=body, c=head(8)).eval()
    twice = Parts(lambda m, x: m.c(pooled(m.body(m.body(m.a(x))))), a=conv(3, 8), body=body, c=head(8)).eval()
    assert depth.blocks(once, models.example(SHAPE), set()) == ["body"]
    assert depth.blocks(twice, models.example(SHAPE), set()) == []


def test_the_block_goes_without_which_the_loss_is_smallest():
    """Each block adds a number to the loss, and two of them together another one: the second choice knows the first."""
    model = built()
    present = {"stages.0.0": 4.0, "stages.0.1": 1.0, "stages.0.2": 2.0, "stages.1.1": 3.0}

    def loss() -> float:
        gone = {name for name in present if isinstance(model.get_submodule(name), nn.Identity)}
        alone = sum(present[name] for name in gone)
        return alone + (5.0 if gone >= {"stages.0.1", "stages.0.2"} else 0.0)

    chosen = depth.choose(model, list(present), 2, loss)
    assert [name for name, _ in chosen] == ["stages.0.1", "stages.1.1"]
    assert chosen[0][1] == present
    assert chosen[1][1] == {"stages.0.0": 5.0, "stages.0.2": 8.0, "stages.1.1": 4.0}
    kept = {name for name in present if not isinstance(model.get_submodule(name), nn.Identity)}
    assert kept == {"stages.0.0", "stages.0.2"}


def test_a_block_that_adds_nothing_can_go_without_a_change():
    model = built()
    inputs = torch.randn(4, *SHAPE)
    with torch.no_grad():
        model.stages[0][1].bn2.weight.zero_()
        before = model(inputs)
        depth.remove(model, ["stages.0.1"])
        torch.testing.assert_close(model(inputs), before)


def test_more_blocks_than_there_are():
    with pytest.raises(
        StageError, match=r"depth: 3 residual blocks are to go, and the network has 2 that can \(a, b\)"
    ):
        depth.enough(["a", "b"], 3)
    with pytest.raises(StageError, match="has 0 that can: none gives the shape"):
        depth.enough([], 1)
    depth.enough(["a"], 1)


@pytest.mark.parametrize("name", ["stages.9", "", "stages.0.0.conv1.weight", "a.b"])
def test_an_edit_of_another_network_is_refused(name):
    with pytest.raises(StageError, match="do not fit the network"):
        depth.restore(built(), {"removed": [name]}, models.example(SHAPE), {})
