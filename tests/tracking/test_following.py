"""The log of a run is read while it grows, and nothing is done while a device is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekd.tracking import following

Write = Callable[..., None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "run.jsonl"
    found.write_text("")
    return found


def _write(path: Path, *events: str) -> None:
    _append(path, "".join(json.dumps({"event": event}) + "\n" for event in events))


def _append(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


def _read(path: Path, monkeypatch: pytest.MonkeyPatch, *turns: Callable[[], object]) -> list[list[str]]:
    """What is yielded while, at each look at the log, the next thing happens; after the last nobody is there."""
    left: Iterator[Callable[[], object]] = iter(turns)
    gone = False

    def happens(seconds: float) -> None:
        nonlocal gone
        turn = next(left, None)
        if turn is None:
            gone = True
        else:
            turn()

    monkeypatch.setattr(following.time, "sleep", happens)
    return [[line["event"] for line in lines] for lines in following.batches(path, lambda: not gone)]


def test_lines_come_as_they_are_written_and_the_last_ends_it(path, monkeypatch):
    _write(path, "run", "start")
    found = _read(
        path, monkeypatch, lambda: None, lambda: _write(path, "step", "finished"), lambda: pytest.fail("over")
    )
    assert found == [["run", "start"], ["step", "finished"]]


def test_half_a_line_waits_for_its_end(path, monkeypatch):
    whole = json.dumps({"event": "step"}) + "\n"
    found = _read(path, monkeypatch, lambda: _append(path, whole[:5]), lambda: _append(path, whole[5:]))
    assert found == [["step"], []]


def test_nothing_is_yielded_while_a_device_is_measured(path, monkeypatch):
    _write(path, "run", "measuring")
    found = _read(path, monkeypatch, lambda: _write(path, "progress"), lambda: _write(path, "measured"),
                  lambda: _write(path, "measuring", "failed"))  # fmt: skip
    assert found == [["run", "measuring", "progress", "measured"], ["measuring", "failed"]]


def test_a_step_that_begins_after_a_measurement_is_told_at_once(path, monkeypatch):
    _write(path, "run", "measuring")
    found = _read(path, monkeypatch, lambda: _write(path, "start"), lambda: _write(path, "epoch", "step", "measuring"),
                  lambda: _write(path, "measured"))  # fmt: skip
    assert found == [["run", "measuring", "start"], ["epoch", "step", "measuring", "measured"], []]


def test_a_run_that_was_killed_ends_it_with_what_it_wrote(path, monkeypatch):
    _write(path, "run", "measuring")
    assert _read(path, monkeypatch, lambda: _write(path, "progress")) == [["run", "measuring", "progress"]]
