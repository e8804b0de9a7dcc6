"""The moving average against its recurrence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.options import Training
from edgekd.training import loop
from edgekd.training.ema import Average

from .small import TASK, convnet, images, train


def test_it_follows_the_recurrence():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = Average(model, 0.5)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape) * 3)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    counted = model.state_dict()["1.num_batches_tracked"].clone()
    with average.shown():
        for name, value in model.state_dict().items():
            if name == "1.num_batches_tracked":
                assert value == counted
            else:
                torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_networks_own_weights_come_back():
    model = convnet()
    average = Average(model, 0.9)
    nn.init.zeros_(model[0].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with average.shown():
        assert bool((model[0].weight != 0).any())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_scored_and_kept_is_the_average(tmp_path, monkeypatch):
    """By hand: the same training without an average, whose weights after each step are averaged outside."""
    data, options = images(), Training(epochs=2, batch_size=16, learning_rate=0.05)
    torch.manual_seed(0)
    plain = convnet(dropout=0.0)
    expected, steps = {name: value.clone() for name, value in plain.state_dict().items()}, [0]
    update = loop.Trainer.update

    def updated(trainer):
        update(trainer)
        decay = min(0.7, (1 + steps[0]) / (10 + steps[0]))
        for name, value in trainer.bare.model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
        steps[0] += 1

    monkeypatch.setattr(loop.Trainer, "update", updated)
    train(plain, data, tmp_path / "plain", options)
    monkeypatch.undo()
    torch.manual_seed(0)
    averaged = convnet(dropout=0.0)
    scored = []

    def score(outputs, targets):
        scored.append(outputs["outputs"])
        return np.full(len(targets), len(scored) / 10)  # the last epoch is the best

    options = options.model_copy(update={"ema": 0.7})
    train(averaged, data, tmp_path / "averaged", options, task=replace(TASK, score=score))
    assert steps[0] == 8
    for name, value in averaged.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        outputs = averaged(torch.from_numpy(data.validation.inputs)).numpy()
    assert scored[-1] == pytest.approx(outputs, abs=1e-4)
