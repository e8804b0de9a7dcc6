from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.agent import meters, sampling
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_npz, write_json
from edgekd.agent.meters import Channel, Reading
from edgekd.agent.meters.external import External
from edgekd.agent.sampling import Progress, Sampler, Watch, recorded

SECOND = 10**9


class Scripted:
    """A meter that gives prepared readings, then waits until it is stopped and gives (or refuses) a last one."""

    scope, scope_kind, period_s = "module (VDD_IN)", "module", 1.0
    floor_w, floor_j = 0.04, None
    total: tuple[str, ...] = ("a",)

    def __init__(self, *readings: tuple[float, float], kind: str = "power", last: float | None = None) -> None:
        self.channels = (Channel("a", kind), Channel("b", kind))
        self.readings = iter(readings)
        self.used, self.stop = threading.Event(), threading.Event()
        self.last, self.closed = last, 0

    def read(self) -> Reading:
        for second, value in self.readings:
            return Reading(int(second * SECOND), (value, 100.0))
        self.used.set()
        if self.last is None:
            raise AgentError("the sensor has gone")
        assert self.stop.wait(20)
        return Reading(int(self.last * SECOND), (5.0, 100.0))

    def close(self) -> None:
        self.closed += 1


def sampled(meter: Scripted, watch: Path | None = None) -> Sampler:
    """Sample everything that a meter has."""
    sampler = Sampler(meter, watch)
    sampler.start()
    assert meter.used.wait(20)
    meter.stop.set()
    sampler.stop()
    return sampler


def test_all_readings_are_kept_and_one_more_after_the_stop() -> None:
    sampler = sampled(Scripted((1, 4.0), (2, math.nan), (3, 6.0), last=4))
    times, values = sampler.arrays()
    assert times.dtype == np.int64
    assert times.tolist() == [SECOND, 2 * SECOND, 3 * SECOND, 4 * SECOND]
    np.testing.assert_array_equal(values, [[4, 100], [math.nan, 100], [6, 100], [5, 100]])
    assert sampler.error is None


def test_times_increase_strictly() -> None:
    sampler = sampled(Scripted((1, 4.0), (1, 4.5), (0.5, 4.5), (2, 6.0), last=2))
    assert sampler.arrays()[0].tolist() == [SECOND, 2 * SECOND]


def test_nothing_read_is_an_empty_table() -> None:
    sampler = sampled(Scripted())
    times, values = sampler.arrays()
    assert (times.shape, values.shape) == ((0,), (0, 2))


def test_an_error_of_the_meter_is_kept_and_seen_by_the_measured_process(tmp_path: Path) -> None:
    sampler = sampled(Scripted((1, 4.0)), tmp_path / "watch")
    assert str(sampler.error) == "the sensor has gone"
    assert Watch(tmp_path / "watch").read() == Progress(1, 0, SECOND, True)


@pytest.mark.parametrize(
    ("readings", "good", "gaps"),
    [
        ([(1, 4.0), (2, 4.0), (3, 4.0)], 3, 0),
        ([(1, 4.0), (3.5, 4.0)], 2, 0),  # just 2.5 periods
        ([(1, 4.0), (3.6, 4.0), (4, 4.0)], 3, 1),
        ([(1, 4.0), (2, math.nan), (3, 4.0)], 2, 1),
        ([(1, math.nan), (2, math.inf), (3, 4.0)], 1, 2),
    ],
)
def test_gaps_and_good_readings_are_counted(readings: list[tuple[float, float]], good: int, gaps: int) -> None:
    sampler = sampled(Scripted(*readings, last=readings[-1][0]))
    assert sampler.progress() == Progress(good, gaps, int(readings[-1][0] * SECOND), False)


def test_another_process_sees_the_progress(tmp_path: Path) -> None:
    sampled(Scripted((1, 4.0), (2, math.nan), last=3), tmp_path / "watch")
    code = (
        "import sys, pathlib; from edgekd.agent.sampling import Watch; print(*Watch(pathlib.Path(sys.argv[1])).read())"
    )
    other = subprocess.run([sys.executable, "-c", code, tmp_path / "watch"], check=True, capture_output=True, text=True)
    assert other.stdout.split() == ["2", "1", str(3 * SECOND), "False"]


def test_a_watch_sees_readings_as_they_come(tmp_path: Path) -> None:
    meter = Scripted((1, 4.0), (2, 4.0), last=3)
    sampler = Sampler(meter, tmp_path / "watch")
    watch = Watch(tmp_path / "watch")
    assert watch.read() == Progress(0, 0, 0, False)
    sampler.start()
    assert meter.used.wait(20)
    assert watch.read() == Progress(2, 0, 2 * SECOND, False)
    meter.stop.set()
    sampler.stop()
    assert watch.read() == Progress(3, 0, 3 * SECOND, False)


def test_mean_power_of_powers_is_the_arithmetic_mean_inside() -> None:
    sampler = sampled(Scripted((1, 9.0), (2, 4.0), (3, 5.0), (4, 6.0), (5, math.nan), last=6))
    assert sampler.mean_power_w(2 * SECOND, 4 * SECOND) == 5.0
    assert sampler.mean_power_w(2 * SECOND - 1, 3 * SECOND + 1) == 4.5
    assert sampler.mean_power_w(2 * SECOND, 5 * SECOND) is None  # a total is missing
    assert sampler.mean_power_w(2 * SECOND, 2 * SECOND) is None
    assert sampler.mean_power_w(7 * SECOND, 9 * SECOND) is None


def test_mean_power_of_counters_is_their_difference_over_its_time() -> None:
    sampler = sampled(Scripted((1, 10.0), (2, 10.5), (4, 16.0), (5, 30.0), kind="energy", last=6))
    assert sampler.mean_power_w(SECOND, 4 * SECOND) == 2.0
    assert sampler.mean_power_w(0, 4 * SECOND + 1) == 2.0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only: there are no others to sample on")
def test_the_sampler_keeps_off_the_measured_cores() -> None:
    seen: list[set[int]] = []

    class Asking(Scripted):
        def read(self) -> Reading:
            seen.append(os.sched_getaffinity(0))
            return super().read()

    before = os.sched_getaffinity(0)
    measured = sorted(before)[-1:]
    meter = Asking((1, 4.0), last=2)
    sampler = Sampler(meter, None, measured)
    sampler.start()
    assert meter.used.wait(20)
    meter.stop.set()
    sampler.stop()
    assert seen == [before - set(measured)] * len(seen)
    assert os.sched_getaffinity(0) == before


def offer(monkeypatch: pytest.MonkeyPatch, meter: Any) -> None:
    monkeypatch.setattr(meters, "find", lambda name, root: (name, meter, None))


def windows(path: str, *spans: tuple[float, float]) -> dict[str, Any]:
    """Write what the measured process writes."""
    content = {
        "period_s": 1.0,
        "pace_hz": None,
        "bursts": [],
        "warmup": {"seconds": 10.0, "steady": True, "reason": None},
        "windows": [
            {"kind": "idle", "start_ns": int(start * SECOND), "end_ns": int(end * SECOND)} for start, end in spans
        ],
    }
    write_json(Path(path), content)
    return content


def record(tmp_path: Path, run: Callable[[dict[str, Any]], object], **fields: Any) -> dict[str, Any]:
    return recorded(name="scripted", out_dir=tmp_path / "out", work_dir=tmp_path / "work", run=run, **fields)


def test_samples_and_windows_are_written_with_the_mean_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Scripted((1, 4.0), (2, 5.0), (3, 7.0), (4, 7.0), last=5)
    offer(monkeypatch, meter)
    tasks = []

    def run(task: dict[str, Any]) -> None:
        tasks.append(task)
        assert meter.used.wait(20)
        assert Watch(Path(task["watch"])).read().readings == 4
        windows(task["windows"], (1, 2.5), (3, 4), (8, 9))
        meter.stop.set()

    header = record(tmp_path, run)
    assert header == {
        "meter": "scripted",
        "reason": None,
        "scope": "module (VDD_IN)",
        "scope_kind": "module",
        "floor_w": 0.04,
        "floor_j": None,
        "period_s": 1.0,
        "simulated": False,
        "windows": "samples/energy.json",
        "samples": "samples/power.npz",
    }
    assert (tasks[0]["period_s"], tasks[0]["external"]) == (1.0, False)
    content = json.loads((tmp_path / "out/samples/energy.json").read_text())
    assert content["channels"] == [{"name": "a", "kind": "power"}, {"name": "b", "kind": "power"}]
    assert (content["total"], content["period_s"]) == (["a"], 1.0)
    assert [window["mean_power_w"] for window in content["windows"]] == [4.5, 7.0, None]
    arrays = read_npz(tmp_path / "out/samples/power.npz")
    assert arrays["time_ns"].tolist() == [n * SECOND for n in range(1, 6)]
    assert arrays["values"][:, 0].tolist() == [4, 5, 7, 7, 5]
    assert meter.closed == 1


def test_an_external_meter_has_windows_but_no_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, External())
    tasks = []

    def run(task: dict[str, Any]) -> None:
        tasks.append(task)
        windows(task["windows"], (1, 2))

    header = record(tmp_path, run, period_s=0.25)
    assert (header["period_s"], header["scope_kind"], header["samples"]) == (0.25, "wall", None)
    assert (tasks[0]["watch"], tasks[0]["external"], tasks[0]["period_s"]) == (None, True, 0.25)
    content = json.loads((tmp_path / "out/samples/energy.json").read_text())
    assert (content["channels"], content["total"]) == ([], [])
    assert content["windows"][0]["mean_power_w"] is None
    assert [path.name for path in (tmp_path / "out/samples").iterdir()] == ["energy.json"]
    assert record(tmp_path, run)["period_s"] == 1.0


def test_only_an_external_meter_takes_the_period_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Scripted((1, 4.0), last=2)
    offer(monkeypatch, meter)

    def run(task: dict[str, Any]) -> None:
        windows(task["windows"])
        meter.stop.set()

    assert record(tmp_path, run, period_s=0.25)["period_s"] == 1.0


def test_a_failed_run_leaves_a_reason_and_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Scripted((1, 4.0), last=2)
    offer(monkeypatch, meter)

    def run(task: dict[str, Any]) -> None:
        meter.stop.set()
        raise AgentError("energy of int8: the process was killed")

    header = record(tmp_path, run)
    assert (header["meter"], header["reason"]) == (None, "energy of int8: the process was killed")
    assert header["windows"] is header["samples"] is header["floor_w"] is None
    assert not (tmp_path / "out").exists()
    assert meter.closed == 1


@pytest.mark.parametrize("child_fails", [True, False])
def test_a_meter_that_fails_meanwhile_is_the_reason(
    child_fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Scripted((1, 4.0))
    offer(monkeypatch, meter)

    def run(task: dict[str, Any]) -> None:
        assert meter.used.wait(20)
        windows(task["windows"])
        if child_fails:
            raise AgentError("the power meter failed")

    assert record(tmp_path, run)["reason"] == "the sensor has gone"
    assert meter.closed == 1


def test_a_meter_that_gives_nothing_any_more_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_FIRST_SECONDS", -2.4)  # and 2.5 periods
    meter = Scripted((1, math.nan), last=2)
    offer(monkeypatch, meter)
    threading.Timer(1.0, meter.stop.set).start()
    assert record(tmp_path, windows)["reason"] == "the power meter gives no good reading any more"


def test_without_a_meter_the_reason_is_told(tmp_path: Path) -> None:
    header = recorded(
        name="rapl", out_dir=tmp_path / "out", work_dir=tmp_path / "work", run=windows, root=tmp_path / "device"
    )
    assert header["meter"] is None
    assert header["reason"].startswith("rapl: no /sys/class/powercap/intel-rapl*")


def test_a_run_that_is_interrupted_leaves_no_thread_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Scripted((1, 4.0), last=2)
    offer(monkeypatch, meter)

    def run(task: dict[str, Any]) -> None:
        meter.stop.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(tmp_path, run)
    assert meter.closed == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "power-sampler"]
