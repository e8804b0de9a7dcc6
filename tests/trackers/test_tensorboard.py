"""What TensorBoard reads of a run is what the run kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edgekd import log, trackers
from edgekd.trackers import Run, tensorboard


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder)).Reload()
    return {name: [(one.step, one.value) for one in found.Scalars(name)] for name in found.Tags()["scalars"]}


@pytest.fixture
def run(chain, tmp_path: Path) -> Run:
    path = tmp_path / "logs" / "mine.jsonl"
    path.parent.mkdir()
    shutil.copy(chain.path / log.FILE, path)
    return Run("mine", chain.store, path, {})


def _told(run: Run, address: str, folder: Path | None) -> None:
    board = tensorboard.open_board(address, run)
    for line in map(json.loads, run.log.read_text().splitlines()):
        board.hear(line["event"], line)
    board.end(folder)


def test_the_curves_of_every_training_are_in_the_runs_folder_each_point_once(chain, run, tmp_path):
    (tmp_path / "run").mkdir()
    _told(run, "", tmp_path / "run")
    trained = {stage["name"]: stage["facts"] for stage in chain.content["stages"] if "curves" in stage["facts"]}
    assert {path.name for path in (tmp_path / "run" / "tensorboard").iterdir()} == set(trained)
    for name, facts in trained.items():
        found, curves = _scalars(tmp_path / "run" / "tensorboard" / name), facts["curves"]
        for kind in ("validation", "train_loss", "learning_rate"):
            assert [epoch for epoch, _ in found[kind]] == curves["epoch"]
            assert [value for _, value in found[kind]] == pytest.approx(curves[kind], rel=1e-5)
        for term, kinds in facts.get("terms", {}).items():
            assert [value for _, value in found[f"{term}/share"]] == pytest.approx(kinds["share"], rel=1e-5)
    assert "kd/share" in _scalars(tmp_path / "run" / "tensorboard" / "distill")
    assert [path.name for path in run.log.parent.iterdir()] == ["mine.jsonl"]


def test_of_a_run_that_failed_they_stay_in_the_store_and_an_address_is_a_folder(run, tmp_path):
    _told(run, "", None)
    assert "validation" in _scalars(run.log.parent / "mine.tensorboard" / "teacher")
    (tmp_path / "run").mkdir()
    _told(run, str(tmp_path / "boards"), tmp_path / "run")
    assert "validation" in _scalars(tmp_path / "boards" / "mine" / "teacher")
    assert list((tmp_path / "run").iterdir()) == []


def test_an_epoch_of_the_log_is_its_curves():
    head = {"time": "2026-01-02T00:00:01+00:00", "elapsed_s": 1.0, "level": "debug", "event": "epoch"}
    line = {**head, "step": "teacher", "epoch": 3, "validation": 0.5, "train_loss": 2}
    assert list(trackers.of_epoch(line)) == [("validation", 3, 0.5), ("train_loss", 3, 2.0)]
    assert trackers.seconds(line) == 1767312001.0
