from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import tasks
from edgekd.compress import improving, quantization, simulation
from edgekd.compress.prepared import layers
from edgekd.data import Split
from edgekd.device import Scheme

TASK = tasks.load("classification")


@pytest.fixture
def made() -> tuple[torch.fx.GraphModule, Split, Callable[[], dict]]:
    """A calibrated network whose hidden channels differ a thousandfold, and a split that its floats answer right."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), torch.randn(200, 6)
    with torch.no_grad():
        model[0].weight[0] *= 1000
        model[2].weight[:, 0] /= 1000
        model[2].weight *= 10
        split = Split(x.numpy(), model(x).argmax(1).numpy())
    prepared = quantization.prepare(model, (x[:2],), Scheme(activations="u8"))

    def calibrate() -> dict:
        quantization.forget(prepared)
        return quantization.calibrate(prepared, [x])

    return prepared, split, calibrate


def test_what_helps_is_kept_with_the_figures_that_say_so(made) -> None:
    prepared, split, calibrate = made
    seen, told = improving.improve(["equalize"], prepared, [torch.from_numpy(split.inputs)], calibrate, split, TASK)
    (one,) = told
    assert (seen, one["method"], one["kept"]) == ({}, "equalize", True)
    assert one["score"][0] < 0.9
    assert one["score"][1] > 0.97
    assert one["loss_change_95"][0] < one["loss"][1] - one["loss"][0] < one["loss_change_95"][1] < 0
    with torch.no_grad():
        logits = quantization.convert(prepared)(torch.from_numpy(split.inputs))
        expected = float(nn.functional.cross_entropy(logits, torch.from_numpy(split.targets)))
    assert one["loss"][1] == pytest.approx(expected, rel=1e-5)
    assert one["score"][1] == float(np.mean(logits.argmax(1).numpy() == split.targets))


@pytest.mark.parametrize(("outlier", "expected"), [(1000, ["equalize"]), (1, [])])
def test_unasked_only_what_is_not_sound_is_repaired(outlier: int, expected: list[str]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), torch.randn(200, 6)
    with torch.no_grad():
        model[0].weight[0] *= outlier
        model[2].weight[:, 0] /= outlier
        split = Split(x.numpy(), model(x).argmax(1).numpy())
    prepared = quantization.prepare(model, (x[:2],), Scheme(activations="u8"))
    _, told = improving.improve("auto", prepared, [x], lambda: quantization.calibrate(prepared, [x]), split, TASK)
    assert [one["method"] for one in told] == expected


def test_the_noise_of_integers_is_that_of_the_converted_graph(made) -> None:
    prepared, split, calibrate = made
    calibrate()
    x = torch.from_numpy(split.inputs)
    with torch.no_grad():
        exact = quantization.duplicate(prepared)(x)
        noise = quantization.convert(prepared)(x) - exact
    expected = 10 * np.log10(float(exact.square().sum()) / float(noise.square().sum()))
    before = quantization.observed_state(prepared)
    assert simulation.sqnr_db(prepared, x) == pytest.approx(expected, abs=0.2)  # biases are rounded too
    assert all(
        torch.equal(prepared.state_dict()[name], value) for name, value in before.items()
    )  # nothing was observed


def spoil(prepared, floats, batches) -> None:
    with torch.no_grad():
        next(layers(prepared)).weight.mul_(-1)


@pytest.mark.parametrize(("method", "samples"), [(spoil, 200), (lambda *_: None, 200), (None, 20)])
def test_what_harms_or_changes_nothing_or_cannot_be_told_is_undone_to_the_bit(method, samples, made, monkeypatch):
    prepared, split, calibrate = made
    split = Split(split.inputs[:samples], split.targets[:samples])
    calibrate()
    improving.equalize(prepared, prepared, [torch.from_numpy(split.inputs)])  # so that there is something to spoil
    calibrate()
    before = quantization.observed_state(prepared)
    methods = improving.ORDER if method is None else {"equalize": method}
    monkeypatch.setattr(improving, "ORDER", methods)
    _, told = improving.improve(["equalize"], prepared, [torch.from_numpy(split.inputs)], calibrate, split, TASK)
    assert [one["kept"] for one in told] == [False]
    assert (told[0]["loss_change_95"] is None) == (samples == 20)
    if samples == 200:
        after = prepared.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())


def test_methods_are_tried_in_their_order_whatever_the_recipe_says(made, monkeypatch) -> None:
    prepared, split, calibrate = made
    tried: list[str] = []
    monkeypatch.setattr(
        improving, "ORDER", {name: lambda *_, name=name: tried.append(name) for name in improving.ORDER}
    )
    _, told = improving.improve(["bias", "round", "equalize"], prepared, [], calibrate, split, TASK)
    assert tried == [one["method"] for one in told] == ["equalize", "round", "bias"]


def test_after_equalization_the_floats_to_be_met_are_the_equalized_ones(made, monkeypatch) -> None:
    prepared, split, calibrate = made
    met: list[torch.Tensor] = []
    monkeypatch.setitem(
        improving.ORDER, "bias", lambda _, floats, batches: met.append(next(layers(floats)).weight.detach().clone())
    )
    batches = [torch.from_numpy(split.inputs)]
    _, told = improving.improve(["equalize", "bias"], prepared, batches, calibrate, split, TASK)
    assert [one["kept"] for one in told] == [True, False]
    assert torch.equal(met[0], next(layers(prepared)).weight)
