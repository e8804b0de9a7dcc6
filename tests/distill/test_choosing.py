"""Which teacher a student learns best from: successive halving, and the evidence for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import softmax

from edgekd import data as datasets
from edgekd import models
from edgekd.artifact import Artifact
from edgekd.distill import choosing
from edgekd.distill.choosing import calibration_error, choose
from edgekd.models import Description
from edgekd.options import Data, Network
from edgekd.stage import Inputs
from edgekd.stages.choose import Options
from edgekd.stages.distill import Options as Distillation

DATA = Data(source="digits", validation=0.3, train_samples=700)
DESCRIPTION = Description("edgekd.models.mlp:build", {"input_shape": [1, 8, 8], "classes": 10, "widths": []}, (1, 8, 8))
STUDENT = Network(model="mlp", widths=(16,), epochs=8, batch_size=32, learning_rate=3e-3)


def teacher(folder: Path, seed: int, *, useless: bool = False) -> Artifact:
    """Store a linear classifier of the digits; a useless one takes each class for the next."""
    data = datasets.of(given({}))
    x, y = torch.from_numpy(data.train.inputs).flatten(1), torch.from_numpy(data.train.targets)
    torch.manual_seed(seed)
    model = models.create(DESCRIPTION)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), (y + useless) % 10).backward()
        optimizer.step()
    folder.mkdir()
    models.save(folder, DESCRIPTION, model.state_dict())
    facts = {"validation": 0.5 + seed / 100, "parameters": 650, "macs": 640, "curves": {}}
    return Artifact(folder, "teacher", "", "", facts)


def given(artifacts: dict[str, Artifact]) -> Inputs:
    return Inputs(
        artifacts={f"teacher/{name}": found for name, found in artifacts.items()},
        blocks={"student": STUDENT, "distill": Distillation()}, data=DATA, data_dir=None, task="classification", seed=0,
        data_seed=0, compute="cpu", variant="teacher",
    )  # fmt: skip


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("teachers")
    return {name: teacher(folder / name, seed) for seed, name in enumerate("abcde")}


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Replace the trials: "c" is the best in short ones, "b" in longer ones, and "e" always the worst."""
    run: list[tuple[str, int]] = []
    scores = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.55, "e": 0.1}

    def learn(model: Any, options: Any, asked: Any, training: Network, *_: Any) -> dict[str, Any]:
        (source,) = asked
        run.append((source.name, training.epochs or 0))
        late = 0.2 if source.name == "b" and (training.epochs or 0) > 2 else 0.0
        return {"validation": scores[source.name] + late}

    monkeypatch.setattr(choosing, "learn", learn)
    return run


@pytest.mark.parametrize(
    ("options", "names", "expected"),
    [
        ({}, "abcde", ["a1", "b1", "c1", "d1", "e1", "c2", "b2"]),
        ({"first_epochs": 2}, "abcd", ["a2", "b2", "c2", "d2", "c4", "b4"]),
        ({"first_epochs": 5}, "abcd", ["a5", "b5", "c5", "d5", "b8", "c8"]),  # at most the student's own
        ({"eta": 3}, "abcde", ["a1", "b1", "c1", "d1", "e1"]),
        ({"eta": 2, "first_epochs": 1}, "ae", ["a1", "e1"]),
    ],
)
def test_the_better_ones_go_on_to_longer_trials(tmp_path, teachers, trials, options, names, expected):
    facts = choose(Options(**options), given({name: teachers[name] for name in names}), tmp_path)
    assert [f"{name}{epochs}" for name, epochs in trials] == expected
    assert [round["epochs"] for round in facts["rounds"]] == sorted({epochs for _, epochs in trials})
    assert sum(len(round["validation"]) for round in facts["rounds"]) == len(trials)


def test_the_chosen_one_is_copied_with_the_evidence(tmp_path, teachers, trials):
    facts = choose(Options(first_epochs=2), given({name: teachers[name] for name in "abcd"}), tmp_path)
    assert facts["chosen"] == "b"
    assert facts["rounds"] == [
        {"epochs": 2, "validation": {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.55}},
        {"epochs": 4, "validation": {"c": 0.7, "b": pytest.approx(0.8)}},
    ]
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (teachers["b"].path / name).read_bytes()
    assert {name: facts[name] for name in teachers["b"].facts} == teachers["b"].facts  # it is that teacher
    assert facts["candidates"].keys() == set("abcd")
    data = datasets.of(given({})).validation
    for name, evidence in facts["candidates"].items():
        with torch.no_grad():
            probabilities = softmax(models.load(teachers[name].path)(torch.from_numpy(data.inputs)), -1).numpy()
        assert evidence["calibration_error"] == pytest.approx(calibration_error(probabilities, data.targets), abs=1e-6)
        assert evidence["validation"] == teachers[name].facts["validation"]
        assert (evidence["parameters"], evidence["macs"]) == (650, 640)
    json.dumps(facts, allow_nan=False)


def test_of_equals_the_first_one_named_is_chosen(tmp_path, teachers, monkeypatch):
    monkeypatch.setattr(choosing, "learn", lambda *_: {"validation": 0.5})
    assert choose(Options(), given({name: teachers[name] for name in "dab"}), tmp_path)["chosen"] == "d"


def test_trials_that_are_done_are_not_done_again(tmp_path, teachers, trials, monkeypatch):
    chosen = given({name: teachers[name] for name in "abcd"})
    done = choosing.learn

    def interrupted(*arguments: Any) -> dict[str, Any]:
        if len(trials) == 5:
            raise KeyboardInterrupt
        return done(*arguments)

    monkeypatch.setattr(choosing, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        choose(Options(), chosen, tmp_path)
    monkeypatch.setattr(choosing, "learn", done)
    before = list(trials)
    harmed = next(path for path in tmp_path.rglob(choosing.TRIALS) if path.parent.name == "a-1")
    harmed.write_text(harmed.read_text().replace("0.", "1.", 1))  # as after a bit that flipped
    facts = choose(Options(), chosen, tmp_path)
    assert trials[5:] == [("a", 1), ("b", 2)]
    assert len(before) == 5
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert choose(Options(), chosen, fresh) == facts


def test_a_teacher_that_teaches_nonsense_is_not_chosen(tmp_path):
    candidates = {
        "nonsense": teacher(tmp_path / "nonsense", 0, useless=True),
        "good": teacher(tmp_path / "good", 0),
    }
    (tmp_path / "out").mkdir()
    facts = choose(Options(first_epochs=3), given(candidates), tmp_path / "out")
    scores = facts["rounds"][0]["validation"]
    assert facts["chosen"] == "good"
    assert scores["good"] > scores["nonsense"] + 0.3


def test_the_calibration_error_by_hand():
    """Three bins of ten have samples: two sure (0.9), of which one is right; one at 0.6, right; one at 0.5, wrong."""
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.5, 0.5]])
    targets = np.array([0, 0, 1, 1])
    expected = (abs(1.8 - 1) + abs(0.6 - 1) + abs(0.5 - 0)) / 4
    assert calibration_error(probabilities, targets, bins=10) == pytest.approx(expected)
    certain = np.eye(3)
    assert calibration_error(certain, np.arange(3)) == 0
    assert calibration_error(certain, (np.arange(3) + 1) % 3) == 1
    assert calibration_error(certain, np.zeros((3, 2))) is None
