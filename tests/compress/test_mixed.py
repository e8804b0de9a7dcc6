"""Mixed precision: which layers stay in float, found without being told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import data as datasets
from edgekd import models
from edgekd.artifact import Artifact
from edgekd.compress import mixed, quantize
from edgekd.compress.mixed import Tried, better, search
from edgekd.device import Scheme
from edgekd.errors import StageError
from edgekd.graph import parity
from edgekd.graph.export import export_onnx
from edgekd.graph.lint import inspect
from edgekd.models import Description
from edgekd.options import Data
from edgekd.stage import Inputs
from edgekd.stages.quantize import Options
from edgekd.training import checkpoint

SHAPE = (1, 8, 8)
ARGS = {"input_shape": list(SHAPE), "classes": 10, "width": 8, "blocks": [1, 2]}
FACTOR = 100.0


def make_fragile(model: nn.Sequential) -> None:
    """Scale two channels between the first two convolutions up, and down again: the network computes the same.

    One scale for all channels of the first one's output leaves the other six next to no steps.
    """
    scale = torch.tensor([FACTOR, FACTOR, *[1.0] * 6])
    with torch.no_grad():
        model[1].weight.mul_(scale)
        model[1].bias.mul_(scale)
        model[3].weight.div_(scale[None, :, None, None])


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """What the stage is given: a trained convolutional network with outlier channels."""
    folder = tmp_path_factory.mktemp("source")
    inputs = Inputs(
        artifacts={}, blocks={}, data_dir=None, task="classification", seed=0, data_seed=0,
        data=Data(source="digits", validation=0.3), compute="cpu", variant="mixed-u8-reduced",
        context={"scheme": Scheme(activations="u8", reduce_range=True).model_dump()},
    )  # fmt: skip
    split = datasets.of(inputs).train
    images, labels = torch.from_numpy(split.inputs[:500]), torch.from_numpy(split.targets[:500])
    description = Description("edgekd.models.convnet:build", ARGS, SHAPE)
    torch.manual_seed(0)
    model = models.create(description).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    expected = model.eval()(images[:9])
    make_fragile(model)
    torch.testing.assert_close(model(images[:9]), expected)
    models.save(folder, description, model.state_dict())
    return replace(inputs, artifacts={"model": Artifact(folder, "teacher", "", "", {"parameters": 1, "macs": 1})})


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.training.engine.threads", lambda: 1)


def run(inputs: Inputs, out: Path, **options: Any) -> dict[str, Any]:
    out.mkdir()
    return quantize.quantize(unrepaired(**options), inputs, out)


def unrepaired(**options: Any) -> Options:
    return Options(samples=128, **({"improve": ()} | options))


def accuracy(folder: Path, inputs: Inputs) -> float:
    split = datasets.of(inputs).validation
    with torch.no_grad():
        answers = models.load(folder)(torch.from_numpy(split.inputs)).numpy()
    return float(np.mean(answers.argmax(axis=1) == split.targets))


def test_a_fragile_network_keeps_its_accuracy_with_two_layers_in_float(fragile: Inputs, tmp_path: Path) -> None:
    run(fragile, tmp_path / "ptq")
    facts = run(fragile, tmp_path / "mixed", mode="mixed", max_drop_pp=1.0)
    whole = accuracy(fragile.artifacts["model"].path, fragile)
    assert 100 * (whole - accuracy(tmp_path / "ptq", fragile)) > 5
    assert 100 * (whole - accuracy(tmp_path / "mixed", fragile)) <= 1.0
    assert facts["held"]
    assert 1 <= len(facts["float_layers"]) <= 2
    assert set(facts["float_layers"]) <= {"0", "3"}  # the convolutions beside the outliers
    assert facts["float_layers"] + facts["quantized_layers"] == ["0", "3", "6", "11"]
    assert facts["validation"] == pytest.approx(accuracy(tmp_path / "mixed", fragile))
    assert facts["drop_pp"] == pytest.approx(100 * (whole - facts["validation"]))
    assert facts["tried"][0]["float_layers"] == ()
    assert {one["layer"] for one in facts["sensitivity"][:2]} == {"0", "3"}
    json.dumps(facts, allow_nan=False)

    edit = models.describe(tmp_path / "mixed").edits[-1]
    assert edit["float_layers"] == facts["float_layers"]
    export_onnx(
        models.load(tmp_path / "mixed"), (models.example(SHAPE),), tmp_path / "m.onnx", input_names=["input"],
        output_names=["logits"], metadata={}, max_opset=20, quantized_layers=len(facts["quantized_layers"]),
    )  # fmt: skip
    seen = inspect(tmp_path / "m.onnx")
    assert (seen.layers, seen.quantized_layers) == (4, len(facts["quantized_layers"]))
    samples = datasets.of(fragile).validation.inputs[:64]
    with torch.no_grad():
        expected = models.load(tmp_path / "mixed")(torch.from_numpy(samples)).numpy()
    actual = parity.run_onnx(tmp_path / "m.onnx", {"input": samples}, 64)
    assert not parity.check(parity.compare({"logits": expected}, actual), parity.INT8_TOLERANCE)


@pytest.mark.parametrize("mode", ["ptq", "mixed"])
def test_what_can_be_repaired_is_repaired_before_a_layer_is_given_up(
    mode: str, fragile: Inputs, tmp_path: Path
) -> None:
    facts = run(fragile, tmp_path / "out", mode=mode, improve="auto")
    assert next((one["method"], one["kept"]) for one in facts["improve"]) == ("equalize", True)
    assert facts["float_layers"] == []
    whole = accuracy(fragile.artifacts["model"].path, fragile)
    assert 100 * (whole - accuracy(tmp_path / "out", fragile)) <= 1.0
    if mode == "mixed":
        assert (facts["ended"], len(facts["tried"]), facts["sensitivity"]) == ("the limit holds", 1, [])


def test_when_time_is_over_the_best_so_far_is_taken(fragile: Inputs, tmp_path: Path) -> None:
    facts = run(fragile, tmp_path / "out", mode="mixed", minutes=1e-9)
    assert (facts["ended"], facts["held"], len(facts["tried"])) == ("out of time", False, 1)
    assert facts["float_layers"] == []
    assert facts["max_drop_pp"] == mixed.MAX_DROP_PP


def test_an_interrupted_search_goes_on_behind_what_it_measured(
    fragile: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(fragile, tmp_path / "whole", mode="mixed")
    assert len(expected["tried"]) > 2
    judged: list[nn.Module] = []
    evaluate = mixed.evaluate

    def counted(network: nn.Module, *rest: Any, **options: Any) -> float:
        if len(judged) == 3:  # the float network, and two choices
            raise KeyboardInterrupt
        judged.append(network)
        return evaluate(network, *rest, **options)

    monkeypatch.setattr(mixed, "evaluate", counted)
    with pytest.raises(KeyboardInterrupt):
        run(fragile, tmp_path / "cut", mode="mixed")
    judged.clear()
    facts = quantize.quantize(unrepaired(mode="mixed"), fragile, tmp_path / "cut")
    assert facts == expected
    assert len(judged) == len(expected["tried"]) - 2
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_the_time_before_an_interruption_counts(fragile: Inputs, tmp_path: Path) -> None:
    run(fragile, tmp_path / "out", mode="mixed", minutes=1e-9)
    state = checkpoint.load(tmp_path / "out", mixed.FORM)
    assert state is not None
    checkpoint.save(tmp_path / "out", {**state, "seconds": 60 * mixed.MINUTES})
    facts = quantize.quantize(unrepaired(mode="mixed"), fragile, tmp_path / "out")
    assert (facts["ended"], len(facts["tried"])) == ("out of time", 1)


def test_layers_are_left_in_float_by_name_in_any_mode(fragile: Inputs, tmp_path: Path) -> None:
    facts = run(fragile, tmp_path / "out", exclude=["3", "11"])
    assert (facts["float_layers"], facts["quantized_layers"]) == (["3", "11"], ["0", "6"])
    with pytest.raises(StageError, match=r"no layer '12' to exclude; did you mean"):
        run(fragile, tmp_path / "unknown", exclude=["12"])
    with pytest.raises(StageError, match="every layer is to stay in float"):
        run(fragile, tmp_path / "all", exclude=["0", "3", "6", "11"])


# ---- the search alone


class Judge:
    """Drops of accuracy that add up over the layers in integers; counts what it is asked."""

    def __init__(self, **harm: float) -> None:
        self.harm = harm
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, float_layers: Sequence[str]) -> Tried:
        self.asked.append(tuple(float_layers))
        drop = sum(harm for name, harm in self.harm.items() if name not in float_layers)
        return Tried(tuple(float_layers), 1 - drop / 100, drop)


def never() -> bool:
    return False


@pytest.mark.parametrize(
    ("harm", "ranking", "expected", "count"),
    [
        ({"a": 0.2, "b": 0.1}, "ab", (), 1),
        ({"a": 3.0, "b": 0.5}, "ab", ("a",), 2),
        ({"a": 3.0, "b": 2.0, "c": 0.5}, "abc", ("a", "b"), 4),  # each of the two is needed
        ({"a": 0.3, "b": 3.0, "c": 0.2}, "abc", ("b",), 4),  # ranked wrongly: a is given back
    ],
)
def test_the_fewest_layers_stay_in_float(
    harm: dict[str, float], ranking: str, expected: tuple[str, ...], count: int
) -> None:
    judge = Judge(**harm)
    tried, ended = search(lambda: list(ranking), judge, 1.0, never)
    assert better(tried, 1.0).float_layers == expected
    assert (ended, len(judge.asked)) == ("the limit holds", count)


def test_what_cannot_be_held_ends_with_the_smallest_drop() -> None:
    tried, ended = search(lambda: ["a", "b", "c"], Judge(a=3.0, b=0.0, c=2.0), 1.0, never)
    assert ended == "no more layers"  # they never all stay in float
    assert [one.float_layers for one in tried] == [(), ("a",), ("a", "b")]
    assert better(tried, 1.0).float_layers == ("a",)


def test_time_that_runs_out_while_layers_are_given_back_keeps_what_holds() -> None:
    judge = Judge(a=2.0, b=2.0, c=0.0)
    tried, ended = search(lambda: ["a", "b", "c"], judge, 1.0, lambda: len(judge.asked) >= 3)
    assert (ended, better(tried, 1.0).float_layers) == ("out of time", ("a", "b"))
