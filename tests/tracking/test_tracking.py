"""Trackers are processes of their own: a run starts them, tells them its end, and is not harmed by what they do."""

from __future__ import annotations

import importlib.util
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tiny import tiny

from edgekd import Recipe, checks, log, pipeline, recording, tracking
from edgekd.artifact import open_store
from edgekd.document import DocumentError
from edgekd.errors import StageError, UsageError
from edgekd.making import Show


def _python(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script be the process of a tracker."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(tracking.sys, "executable", str(path))


def _follow(tmp_path: Path, told: list[str], *, fail: bool = False) -> tuple[Path, list[dict]]:
    """Record a run that a tracker follows; return the folder of its store and the lines of its log."""
    store = open_store(tmp_path / "store")
    recipe = Recipe.of(**tiny(tracking="mlflow"))
    (tmp_path / "run").mkdir()
    with recording.recorded(store, Show(say=told.append), "mine", datetime.now(UTC), recipe) as record:
        if fail:
            raise StageError("no luck")
        record.finish(tmp_path / "run", exit_code=0)
    lines = (tmp_path / "run" / log.FILE).read_text().splitlines()
    return store.root, [json.loads(line) for line in lines]


def test_a_tracker_is_told_what_to_follow_and_where_the_run_is_in_the_end(tmp_path, monkeypatch):
    _python(tmp_path, monkeypatch, f"cat > {tmp_path}/told; echo $@ $DO_NOT_TRACK > {tmp_path}/arguments")
    said: list[str] = []
    root, lines = _follow(tmp_path, said)
    order, folder = (tmp_path / "told").read_text().splitlines()
    assert (tmp_path / "arguments").read_text() == "-m edgekd.tracking true\n"
    assert folder == str(tmp_path / "run")
    known = json.loads(order)
    assert (known["tracker"], known["address"], known["store"]) == ("mlflow", "", str(root))
    assert known["recipe"]["student"]["width"] == 16
    assert Path(known["log"]).parent == root / "logs"
    assert said == []
    assert list((root / "logs").iterdir()) == []
    assert [line["event"] for line in lines] == ["run", "finished"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("cat > /dev/null; echo 'one' >&2; echo 'no route to http://me:secret@host' >&2; exit 1",
         "no route to http://***@host"),
        ("exit 7", "it ended with code 7"),
        ("exec sleep 60", "it gave no sign for 0 s after the run, and was stopped"),
        (None, "it could not be started"),
    ],
    ids=["fails", "dies", "hangs", "is not there"],
)  # fmt: skip
def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(tmp_path, monkeypatch, script, why):
    if script is None:
        monkeypatch.setattr(tracking.sys, "executable", str(tmp_path / "none"))
    else:
        _python(tmp_path, monkeypatch, script)
    monkeypatch.setattr(tracking, "LIMIT_S", 0.4 if "sleep" in (script or "") else 60.0)
    said: list[str] = []
    root, lines = _follow(tmp_path, said)
    (text,) = said
    assert text.startswith(f"tracking failed, the run did not: mlflow: {why}")
    assert [line["text"] for line in lines if line["level"] == "warning"] == [text]
    left = list((root / "logs").iterdir())
    assert len(left) == (script is not None)
    assert all(str(path) in text for path in left)


def test_a_tracker_that_gives_signs_is_waited_for(tmp_path, monkeypatch):
    _python(tmp_path, monkeypatch, "cat > /dev/null; for one in 1 2 3 4 5 6 7 8; do echo $one >&2; sleep 0.5; done")
    monkeypatch.setattr(tracking, "LIMIT_S", 3.0)
    said: list[str] = []
    _follow(tmp_path, said)
    assert said == []


def test_a_run_that_fails_says_so_and_ends_its_trackers(tmp_path, monkeypatch):
    _python(tmp_path, monkeypatch, f"cat > {tmp_path}/told")
    with pytest.raises(StageError, match="no luck"):
        _follow(tmp_path, [], fail=True)
    assert (tmp_path / "told").read_text().splitlines()[1] == ""


def test_a_package_that_is_missing_is_told_before_any_work(monkeypatch):
    found = importlib.util.find_spec
    absent = ("mlflow", "tensorboard")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else found(name, *more))
    with pytest.raises(UsageError) as wrong:
        checks.check(Recipe.of(**tiny(tracking=["mlflow", "tensorboard", "mlflow=http://host"])), (), None)
    assert str(wrong.value).splitlines() == [
        "tracking: mlflow is not installed: pip install 'edgekd[mlflow]'",
        "tracking: tensorboard is not installed: pip install 'edgekd[tensorboard]'",
    ]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("mlfow", 'did you mean "mlflow"'),
        (["mlflow=http://me:secret@host"], "a password would be kept in the run's report"),
    ],
)
def test_what_a_recipe_may_not_say(wanted, message):
    with pytest.raises(DocumentError, match="tracking") as wrong:
        Recipe.of(**tiny(tracking=wanted))
    assert message in str(wrong.value)


def test_nothing_that_is_made_depends_on_it_and_a_run_wires_it(chain, store, tmp_path, unmeasured, monkeypatch):
    monkeypatch.setattr(tracking, "LIMIT_S", 600.0)
    recipe = Recipe.of(**tiny(tracking=["tensorboard"]))
    prepared = pipeline.prepare(recipe, ["cpu"], store=store)
    assert all(one.artifact for one in pipeline.plan(prepared))
    said: list[str] = []
    found = pipeline.run(recipe, ["cpu"], store=store, out=tmp_path / "run", show=Show(say=said.append))
    assert [text for text in said if "tracking" in text] == []
    folders = {path.name for path in (found.path / "tensorboard").iterdir()}
    assert {"teacher", "distill"} <= folders
    assert list((store / "logs").iterdir()) == []
    events = [json.loads(line)["event"] for line in (found.path / log.FILE).read_text().splitlines()]
    assert "measuring" in events
    assert found.report["provenance"]["recipe"]["tracking"] == ["tensorboard"]


def test_the_log_of_a_training_has_its_epochs(chain):
    lines = [json.loads(line) for line in (chain.path / log.FILE).read_text().splitlines()]
    epochs = [line for line in lines if line["event"] == "epoch"]
    stages = {stage["name"]: stage["facts"] for stage in chain.content["stages"]}
    for name in ("teacher", "distill"):
        told = [line["validation"] for line in epochs if line["step"] == name]
        assert [float(f"{value:.6g}") for value in told] == stages[name]["curves"]["validation"]
