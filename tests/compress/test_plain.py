"""The plainly trained network has the shape of the pruned one, and weights that know nothing of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgekd import models
from edgekd.compress import plain, pruning
from edgekd.options import Network
from edgekd.stages.baseline import Options
from edgekd.stages.prune import Options as Pruning
from edgekd.training import networks
from tests.compress.small import digit_net, given, kept

WIDTHS = {"stages.0.0.conv1": 8, "stages.1.0.conv1": 16}


def test_it_has_the_shape_of_the_pruned_network_and_is_trained_on_labels(tmp_path):
    student = kept(tmp_path / "student", digit_net("resnet", width=16, blocks=[2, 1]))
    inputs = given(student, kept(tmp_path / "teacher", digit_net("mlp", widths=[12])), samples=96)
    block = Pruning(widths=WIDTHS, blocks=("stages.0.1",), epochs=1)
    for name in ("pruned", "plain"):
        (tmp_path / name).mkdir()
    pruned = pruning.prune(block, inputs, tmp_path / "pruned")
    network = Network(model="resnet", width=16, blocks=(2, 1), epochs=2, batch_size=32)
    own = replace(inputs, artifacts={}, blocks={"student": network, "prune": block})
    facts = plain.train(Options(), own, tmp_path / "plain")
    assert (facts["macs"], facts["parameters"]) == (pruned["macs"], pruned["parameters"])
    assert facts["curves"]["epoch"] == [1, 2]
    made, cut = models.load(tmp_path / "plain"), models.load(tmp_path / "pruned")
    shapes = {name: value.shape for name, value in made.state_dict().items()}
    assert shapes == {name: value.shape for name, value in cut.state_dict().items()}


@pytest.mark.parametrize("seed", [0, 7])
def test_layers_start_as_layers_of_their_own_size_do(seed):
    layer, fresh = torch.nn.Linear(10, 4), torch.nn.Linear(10, 4)
    torch.manual_seed(seed)
    fresh.reset_parameters()
    networks.start_again(torch.nn.Sequential(layer, torch.nn.ReLU()), seed)
    assert torch.equal(layer.weight, fresh.weight)
