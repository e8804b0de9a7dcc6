"""From a recipe's network block to a module: a user's mistakes become one clear sentence."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekd import models
from edgekd.errors import StageError
from edgekd.options import Network
from edgekd.training import networks

from .small import images

MLP = Network(model="mlp", widths=(5,))


def test_shipped_networks_are_told_the_shape_and_the_classes():
    description = networks.describe(Network(model="resnet", width=4, blocks=(1, 2)), images())
    assert description.factory == "edgekd.models.resnet:build"
    assert description.args == {"input_shape": [1, 8, 8], "classes": 3, "width": 4, "blocks": [1, 2]}
    assert description.input_shape == (1, 8, 8)
    own = networks.describe(Network(model="a.b:c", args={"x": 1}), images())
    assert (own.factory, own.args) == ("a.b:c", {"x": 1})


def test_the_seed_decides_the_initial_weights():
    description = networks.describe(MLP, images())
    first, again, other = (networks.build(MLP, description, seed)[1].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_taken_from_a_file(tmp_path, suffix):
    description, path = networks.describe(MLP, images()), tmp_path / f"weights{suffix}"
    state = networks.build(MLP, description, 7).state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = networks.build(MLP.model_copy(update={"weights": path}), description, 0)
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return print, ("unpickled!",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pt", None, "there is no such file"),
        ("text.pt", "hello", "cannot be read"),
        ("text.safetensors", "hello", "cannot be read"),
        ("pickle.pt", pickle.dumps(Evil()), "cannot be read"),
        ("evil.pt", Evil(), "cannot be read"),
        (
            "module.pt",
            nn.Linear(2, 2),
            "cannot be read: .*; give a safetensors file, or the state dict that torch.save",
        ),
        ("wrapped.pt", {"epoch": 3, "state_dict": {}}, "hold a dictionary of epoch, state_dict; expected a state dict"),
        ("list.pt", [1, 2], "hold list; expected a state dict"),
        ("other.pt", {"x": torch.zeros(2)}, "do not fit the network"),
        ("other.safetensors", {"x": torch.zeros(2)}, "do not fit the network"),
    ],
)
def test_weights_that_cannot_be(tmp_path, name, content, message, capsys):
    path = tmp_path / name
    if isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    elif content is not None:
        save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    with pytest.raises(StageError, match=f"weights {path}:? {message}"):
        networks.build(MLP.model_copy(update={"weights": path}), networks.describe(MLP, images()), 0)
    assert capsys.readouterr().out == ""


class Returns(nn.Module):
    """Returns what it is told to."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x.flatten(1)[:, :3], None),
        (lambda x: x.flatten(1)[:, :4], "student: the network has 4 outputs, the data have 3 classes"),
        (lambda x: x.sum((1, 2, 3)), r"returned a tensor of shape \(2,\) for 2 inputs; expected \(2, classes\)"),
        (lambda x: (x, x), "returned tuple for 2 inputs"),
        (lambda x: x.flatten(1)[:1, :3], r"returned a tensor of shape \(1, 3\)"),
        (lambda x: x.flatten(1)[:, :3] / 0, "outputs are not finite"),
        (lambda x: x @ torch.zeros(3, 3), r"fails on inputs of shape \(2, 1, 8, 8\)"),
        (lambda x: x["logits"], "fails on inputs"),
    ],
)
def test_what_a_network_returns_is_checked(make, message):
    if message is None:
        networks.check_outputs(Returns(make), images(), "student")
        return
    with pytest.raises(StageError, match=message):
        networks.check_outputs(Returns(make), images(), "student")


@pytest.mark.parametrize(
    "make", [lambda: nn.Conv2d(3, 8, 3, padding=1), lambda: nn.Conv2d(4, 8, 3, groups=4, stride=2)]
)
def test_multiply_accumulates_are_those_of_the_closed_form(make):
    conv = make()
    size = (conv.in_channels, 9, 9)
    out = conv(torch.zeros(1, *size)).shape[2]
    macs = out * out * 8 * 9 * conv.in_channels // conv.groups
    found = networks.profile(nn.Sequential(conv, nn.Flatten(), nn.Linear(8 * out * out, 5)), size)
    assert found == {"parameters": models.parameters(conv) + 5 * (8 * out * out + 1), "macs": macs + 5 * 8 * out * out}


def test_weights_that_are_no_numbers_are_not_stored(tmp_path):
    description = networks.describe(MLP, images())
    model = networks.build(MLP, description, 0)
    with torch.no_grad():
        model[3].weight[1, 2] = np.nan
    with pytest.raises(StageError, match=r"3\.weight holds values that are not finite; the network is not stored"):
        networks.store(tmp_path, description, model, {})
    assert list(tmp_path.iterdir()) == []
