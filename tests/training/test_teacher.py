"""The teacher stage's work, from options to an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgekd import data as datasets
from edgekd import models, tasks
from edgekd.errors import StageError
from edgekd.options import Data
from edgekd.stage import Inputs
from edgekd.stages.teacher import Options
from edgekd.training.engine import accelerate
from edgekd.training.evaluation import evaluate
from edgekd.training.teacher import train


def given(**changes) -> Inputs:
    options = Data(source="digits", validation=0.15, train_samples=400)
    known = {"artifacts": {}, "blocks": {}, "data": options, "data_dir": None, "task": "classification"}
    return Inputs(**(known | {"seed": 0, "data_seed": 0, "compute": "cpu", "variant": "teacher"} | changes))


def test_a_teacher_learns_the_digits_and_is_stored(tmp_path: Path):
    options = Options(model="mlp", widths=(64,), epochs=8, batch_size=32, learning_rate=5e-3)
    facts = train(options, given(), tmp_path)
    data, stored = datasets.of(given()), models.load(tmp_path)
    assert facts["validation"] >= 0.85  # 340 samples; chance is 0.1
    assert (
        evaluate(stored, data.validation, tasks.load("classification"), accelerate("cpu", "fp32"))
        == facts["validation"]
    )
    assert (facts["parameters"], facts["macs"]) == (64 * 65 + 65 * 10, 64 * 64 + 64 * 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_given_weights_are_used_as_they_are(tmp_path: Path):
    state = models.create(
        models.Description("edgekd.models.mlp:build", {"input_shape": [1, 8, 8], "classes": 10}, ())
    ).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    (tmp_path / "out").mkdir()
    facts = train(Options(model="mlp", weights=tmp_path / "weights.safetensors"), given(), tmp_path / "out")
    assert "curves" not in facts
    assert 0 <= facts["validation"] <= 0.4
    found = models.load(tmp_path / "out").state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_network_for_other_data_is_refused_before_it_is_trained(tmp_path: Path):
    options = Options(model="torch.nn:Linear", args={"in_features": 8, "out_features": 10})
    with pytest.raises(
        StageError, match=r"teacher: the network returned a tensor of shape \(2, 1, 8, 10\)|data have 10"
    ):
        train(options, given(), tmp_path)
    assert list(tmp_path.iterdir()) == []
