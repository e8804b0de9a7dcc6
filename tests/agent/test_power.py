from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekd.agent.job import load
from edgekd.agent.power import measure_windows, rejection, run_window, work

from .networks import linear, undefined, write_job


class World:
    """A device whose clock moves only by work, and whose counter counts 2 W idle and 5 W busy."""

    scope = "package-0"

    def __init__(self) -> None:
        self.now_ns, self.energy_uj = 0, 0

    def spend(self, seconds: float, watts: float) -> None:
        self.now_ns += int(seconds * 1e9)
        self.energy_uj += int(seconds * watts * 1e6)

    def read(self) -> tuple[int, ...]:
        return (self.energy_uj,)

    def joules(self, start: tuple[int, ...], end: tuple[int, ...]) -> float:
        return (end[0] - start[0]) / 1e6

    def floor_j(self) -> float:
        return 0.0


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    device = World()
    monkeypatch.setattr("edgekd.agent.power.time.monotonic_ns", lambda: device.now_ns)
    monkeypatch.setattr("edgekd.agent.power.time.sleep", lambda seconds: device.spend(seconds, 2))
    return device


def test_a_window_counts_joules_and_inferences(world: World) -> None:
    window = run_window(world, lambda: world.spend(0.25, 5), 2.0)
    assert window == {"start_ns": 0, "end_ns": 2_000_000_000, "joules": 10.0, "inferences": 8}


def test_windows_alternate_and_idle_ones_lie_between(world: World) -> None:
    busy = []
    calls = [lambda: (world.spend(0.5, 5), None)[1], lambda: (world.spend(0.1, 5), None)[1]]
    windows = measure_windows(
        world,
        ["teacher", "int8"],
        calls,
        count=5,
        seconds=1.0,
        report=lambda name, _: busy.append(name),
        throttled=dict,
    )
    assert busy == ["", "teacher", "int8", "", "int8", "teacher"] * 2 + ["", "teacher", "int8"]
    assert windows["rejected"] == []
    assert len(windows["idle"]) == 6
    assert all("inferences" not in window and window["joules"] == pytest.approx(2) for window in windows["idle"])
    assert [window["inferences"] for window in windows["active"]["teacher"]] == [2] * 5
    assert [window["inferences"] for window in windows["active"]["int8"]] == [10] * 5
    assert all(window["joules"] == pytest.approx(5) for name in windows["active"] for window in windows["active"][name])
    spans = sorted(
        (window["start_ns"], window["end_ns"])
        for group in (windows["idle"], *windows["active"].values())
        for window in group
    )
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_rejected_windows_are_kept_and_repeated_twice_at_most(world: World) -> None:
    counts = iter(range(1000))
    windows = measure_windows(
        world,
        ["teacher"],
        [lambda: world.spend(0.5, 5)],
        count=5,
        seconds=1.0,
        report=lambda *_: None,
        throttled=lambda: {"hwmon0/oc1_event_cnt": next(counts)},
    )
    assert windows["active"] == {"teacher": []}
    assert windows["idle"] == []
    assert [entry["variant"] for entry in windows["rejected"]].count("teacher") == 7
    assert windows["rejected"][0]["reason"] == "the device throttled: hwmon0/oc1_event_cnt rose"


@pytest.mark.parametrize(
    ("joules", "end_s", "reason"),
    [
        (5.0, 10.0, None),
        (0.0, 10.0, "the counter did not move (0.0 J)"),
        (float("nan"), 10.0, "the counter did not move (nan J)"),
        (5.0, 17.0, "it lasted 17.0 s instead of 10 s"),
    ],
)
def test_rejection(joules: float, end_s: float, reason: str | None) -> None:
    window = {"start_ns": 0, "end_ns": int(end_s * 1e9), "joules": joules, "inferences": 3}
    assert rejection(window, 10.0, {}, {}) == reason


def test_the_task_measures_real_sessions_and_writes_the_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ticking(World):
        def read(self) -> tuple[int, ...]:
            self.energy_uj += 1_000_000
            return (self.energy_uj,)

    monkeypatch.setattr("edgekd.agent.power.find", lambda _: ("rapl", Ticking(), None))
    monkeypatch.setattr("edgekd.agent.power.gc", SimpleNamespace(collect=int, disable=int))
    job_dir = write_job(
        tmp_path, {"teacher": linear(tmp_path / "models/t.onnx"), "nan": undefined(tmp_path / "models/n.onnx")}
    )
    task = {
        "job": load(job_dir).to_json(),
        "job_dir": str(job_dir),
        "columns": ["teacher", "nan"],
        "meter": "rapl",
        "windows": str(tmp_path / "samples/energy.json"),
    }
    assert work(task, lambda *_: None) == {"scope": "package-0", "floor_j": 0.0}
    windows = json.loads((tmp_path / "samples/energy.json").read_text())
    assert [len(windows["active"][name]) for name in ("teacher", "nan")] == [5, 5]
    assert len(windows["idle"]) == 6
    for window in windows["active"]["nan"]:
        assert window["joules"] == 1.0
        assert window["inferences"] > 0
        assert window["end_ns"] - window["start_ns"] >= 200_000_000
