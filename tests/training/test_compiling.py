"""Compiled networks train as the others do."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from edgekd.errors import StageError
from edgekd.options import Training
from edgekd.training import compiling

from .small import images, labels, train

# Torch warns of what it does itself when its compiler is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
OPTIONS = Training(epochs=2, batch_size=16, compile=True)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.soak)])
def test_it_learns_the_same_and_its_hooks_are_called(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", backend)
    plain, compiled, seen = network(), network(), []
    compiled[1].register_forward_hook(lambda module, inputs, output: seen.append(output))

    def terms(outputs, batch):
        return {**labels(outputs, batch), "hidden": seen.pop().square().mean()}

    facts = train(compiled, images(), tmp_path / "compiled", OPTIONS, objective=terms)
    plain[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    expected = train(
        plain, images(), tmp_path / "plain", OPTIONS.model_copy(update={"compile": False}), objective=terms
    )  # fmt: skip
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    for name, kinds in expected["terms"].items():
        assert facts["terms"][name]["gradient_norm"] == pytest.approx(kinds["gradient_norm"], rel=1e-4)


def test_it_is_compiled_once_for_both_epochs(tmp_path, monkeypatch):
    graphs, called = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return lambda *given: called.append(given) or graph.forward(*given)

    monkeypatch.setattr(compiling, "BACKEND", backend)
    train(network(), images(), tmp_path, OPTIONS)
    assert len(graphs) == 1
    assert len(called) == 6  # of four steps in each of two epochs; the first of each measures gradients


def test_without_a_compiler_it_is_refused_before_any_step(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StageError, match=r"compile: no C\+\+ compiler \(g\+\+ or clang\+\+\) .* set compile: false"):
        train(network(), images(), tmp_path, OPTIONS)
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    with pytest.raises(StageError, match="compile: the package triton is not installed"):
        compiling.compiled(network(), torch.device("cuda"))


def test_a_network_that_cannot_be_compiled_is_told(tmp_path, monkeypatch):
    def backend(graph, inputs):
        raise ValueError("no such instruction")

    monkeypatch.setattr(compiling, "BACKEND", backend)
    with pytest.raises(StageError, match="no such instruction"):
        train(network(), images(), tmp_path, OPTIONS)
