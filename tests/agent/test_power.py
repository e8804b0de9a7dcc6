from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.agent import power, warming, windows
from edgekd.agent.errors import AgentError
from edgekd.agent.job import load
from edgekd.agent.method import Method, Power
from edgekd.agent.power import Plan, Windows, make_plan, measure, work
from edgekd.agent.rejecting import Conditions
from edgekd.agent.sampling import Progress

from .clock import Clock
from .networks import linear, undefined, write_job

SECOND = 10**9
PLAN = Plan(
    count=5,
    window_s=30.0,
    idle_s=40.0,
    margin_s=1.0,
    pause_s=2.0,
    warmup_s=10.0,
    period_s=0.1,
    pace_hz=None,
    burst_s=None,
)


class Device:
    """A device on a simulated clock, whose sampler never misses a reading unless a test says so."""

    def __init__(self, clock: Clock, **calls_s: float) -> None:
        self.clock = clock
        self.calls: dict[str, Callable[[], object]] = {
            name: (lambda seconds=seconds: clock.spend(seconds)) for name, seconds in calls_s.items()
        }
        self.conditions = Conditions({"oc1_event_cnt": 0}, "15W", {"cpu0": 1500.0})
        self.busy: list[str] = []
        self.gaps = 0
        self.failed = False

    def watch(self) -> Progress:
        return Progress(self.clock.now_ns // (SECOND // 10), self.gaps, self.clock.now_ns, self.failed)

    def look(self) -> Conditions:
        return self.conditions

    def windows(self, watched: bool = True, **plan: Any) -> Windows:
        fields = {**PLAN.__dict__, **plan}
        return Windows(
            Plan(**fields),
            self.calls,
            self.look,
            self.watch if watched else None,
            lambda name, detail: self.busy.append(name if "window " in detail else detail),
        )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch, power, windows, warming)


@pytest.fixture
def device(clock: Clock) -> Device:
    return Device(clock, teacher=0.5, int8=0.1)


def order(content: dict[str, Any]) -> list[str]:
    return [window["variant"] or "idle" for window in content["windows"]]


def test_windows_alternate_in_turning_order_between_two_idle_ones(device: Device) -> None:
    content = measure(device.windows())
    assert order(content) == ["idle", *["teacher", "int8", "int8", "teacher"] * 2, "teacher", "int8", "idle"]
    assert device.busy[:4] == [
        "teacher: first calls",
        "int8: first calls",
        "energy: idle before the windows",
        "warm-up for energy",
    ]
    assert device.busy[4:-1] == order(content)[1:-1]
    assert all(window["rejected"] is None for window in content["windows"])
    assert (content["bursts"], content["pace_hz"], content["period_s"]) == ([], None, 0.1)
    assert content["warmup"]["seconds"] == pytest.approx(10)
    assert content["warmup"]["steady"]
    json.dumps(content, allow_nan=False)


def test_a_window_counts_its_inferences_and_has_two_clocks(device: Device) -> None:
    for window in measure(device.windows())["windows"]:
        seconds, inferences = {"teacher": (30, 60), "int8": (30, 300), None: (40, 0)}[window["variant"]]
        assert window["kind"] == ("active" if window["variant"] else "idle")
        assert (window["end_ns"] - window["start_ns"]) / SECOND == pytest.approx(seconds)
        assert window["seconds"] == pytest.approx(seconds)
        assert (window["inferences"], window["late"]) == (inferences, 0)


def test_the_load_begins_before_a_window_and_ends_after_it(device: Device) -> None:
    spans: list[tuple[int, int]] = []

    def call() -> None:
        start = device.clock.now_ns
        device.clock.spend(0.5)
        spans.append((start, device.clock.now_ns))

    device.calls = {"teacher": call}
    content = measure(device.windows())
    active = [window for window in content["windows"] if window["variant"]]
    for window in active:
        load = [span for span in spans if span[1] > window["start_ns"] - SECOND and span[0] < window["end_ns"] + SECOND]
        assert load[0][0] == window["start_ns"] - SECOND  # the margin
        assert load[-1][1] == window["end_ns"] + SECOND
        assert all(earlier[1] == later[0] for earlier, later in pairwise(load))  # back to back
    for window in content["windows"]:
        if not window["variant"]:
            assert not [span for span in spans if span[1] > window["start_ns"] and span[0] < window["end_ns"]]
    for earlier, later in pairwise(active):
        assert later["start_ns"] - earlier["end_ns"] == 4 * SECOND  # margin, pause, margin


def test_windows_of_a_device_that_throttles_are_kept_and_two_rounds_are_added(device: Device) -> None:
    def look() -> Conditions:
        device.conditions = device.conditions._replace(throttled={"oc1_event_cnt": device.clock.now_ns})
        return device.conditions

    device.look = look  # type: ignore[method-assign]
    content = measure(device.windows())
    assert [order(content).count(name) for name in ("teacher", "int8", "idle")] == [7, 7, 6]
    assert {window["rejected"] for window in content["windows"]} == {"the device throttled: oc1_event_cnt rose"}


def test_only_what_lacks_windows_is_repeated(device: Device) -> None:
    def look() -> Conditions:
        third = sum(name in device.calls for name in device.busy) == 3  # the second window of int8
        return device.conditions._replace(clocks={"cpu0": 900.0 if third else 1500.0})

    device.look = look  # type: ignore[method-assign]
    content = measure(device.windows())
    assert order(content) == ["idle", *["teacher", "int8", "int8", "teacher"] * 2, "teacher", "int8", "int8", "idle"]
    rejected = [(window["variant"], window["rejected"]) for window in content["windows"] if window["rejected"]]
    assert rejected == [("int8", "the clock of cpu0 fell to 900 MHz; it was 1500 MHz when warm")]


def test_a_window_that_the_meter_did_not_see_is_repeated(device: Device) -> None:
    calls = []

    def call() -> None:
        calls.append(device.clock.spend(0.5))
        device.gaps += len(calls) == 100  # the warm-up has 10 of this variant's calls, every window 64

    device.calls["teacher"] = call
    content = measure(device.windows())
    assert [window["rejected"] for window in content["windows"] if window["variant"] == "teacher"].count(None) == 5
    assert len([window for window in content["windows"] if window["rejected"]]) == 1
    assert order(content).count("teacher") == 6


def test_an_idle_window_is_repeated_at_once(device: Device) -> None:
    sleep = device.clock.sleep

    def disturbed(seconds: float) -> None:
        sleep(seconds)
        device.gaps += device.clock.slept.count(40) == 1 and seconds == 40  # the first idle window

    device.clock.sleep = disturbed  # type: ignore[method-assign]
    content = measure(device.windows())
    assert order(content)[:3] == ["idle", "idle", "teacher"]
    assert [window["rejected"] is None for window in content["windows"][:3]] == [False, True, True]


def test_a_meter_that_failed_ends_it(device: Device) -> None:
    device.failed = True
    with pytest.raises(AgentError, match="the power meter failed"):
        measure(device.windows())


def test_paced_windows_sleep_in_between_and_their_clocks_may_fall(device: Device) -> None:
    device.look = lambda: device.conditions._replace(  # type: ignore[method-assign]
        clocks={"cpu0": 1500.0 if device.clock.now_ns < 70 * SECOND else 300.0}
    )
    content = measure(device.windows(pace_hz=1.0))
    assert content["pace_hz"] == 1.0
    for window in content["windows"]:
        assert (window["rejected"], window["late"]) == (None, 0)
        assert window["inferences"] == (30 if window["variant"] else 0)
    assert content["windows"][1]["seconds"] == pytest.approx(30)


def test_a_variant_that_is_slower_than_the_pace_is_told_so(device: Device) -> None:
    content = measure(device.windows(pace_hz=4.0))
    by_variant = {name: [w for w in content["windows"] if w["variant"] == name] for name in device.calls}
    assert {window["rejected"] for window in by_variant["int8"]} == {None}
    assert len(by_variant["teacher"]) == 7
    # 0.5 s in slots of 0.25 s: every call but the first is late, and every second slot has none.
    assert by_variant["teacher"][0]["inferences"] == 60
    assert by_variant["teacher"][0]["rejected"] == (
        f"the variant cannot keep 4 calls per second: {by_variant['teacher'][0]['late']} came late or not at all"
    )


def test_an_external_meter_gets_bursts_of_the_heaviest_variant_around_everything(device: Device) -> None:
    content = measure(device.windows(watched=False, burst_s=3.0))
    first, last = content["bursts"][:3], content["bursts"][3:]
    assert [(end - start) / SECOND for start, end in first] == pytest.approx([6, 3, 9])
    assert [(end - start) / SECOND for start, end in last] == pytest.approx([6, 3, 9])
    assert first[-1][1] <= min(window["start_ns"] for window in content["windows"])
    assert last[0][0] >= max(window["end_ns"] for window in content["windows"])
    assert [name for name in device.busy if name.startswith("bursts")] == [
        "bursts of load, to align the external meter by"
    ] * 2
    assert all(window["rejected"] is None for window in content["windows"])


@pytest.mark.parametrize(
    ("period_s", "method", "window_s", "idle_s"),
    [
        (0.01, Method(), 5, 30),
        (0.05, Method(), 30, 30),
        (0.2, Method(), 30, 30),
        (1.0, Method(), 60, 60),
        (4.0, Method(), 100, 100),  # never shorter than 25 periods
        (0.1, Method(energy_window_seconds=40), 40, 40),
        (0.1, Method(energy_window_seconds=1), 2.5, 30),
        (0.1, Method(energy_window_seconds=10, idle_seconds=5), 10, 5),
        (0.1, Method(energy_window_seconds=10, idle_seconds=1), 10, 2.5),
        (0.1, Method(energy_window_seconds=1, quick=True), 2.5, 2.5),
    ],
)
def test_the_lengths_follow_from_the_meter(period_s: float, method: Method, window_s: float, idle_s: float) -> None:
    plan = make_plan(method, None, period_s, external=False)
    assert (plan.window_s, plan.idle_s) == (window_s, idle_s)
    assert plan.burst_s is None
    assert plan.margin_s >= 2 * period_s
    assert plan.pause_s >= 2 * period_s


def test_the_full_protocol_warms_up_for_ten_seconds_and_a_quick_one_for_a_window() -> None:
    assert make_plan(Method(), None, 0.01, external=False).warmup_s == 10
    assert make_plan(Method(energy_window_seconds=1, quick=True), None, 0.01, external=False).warmup_s == 1
    assert make_plan(Method(), 30.0, 1.0, external=True).burst_s == 3


def test_the_task_measures_real_sessions_and_writes_the_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power, "gc", SimpleNamespace(collect=int, disable=int))
    models = {"teacher": linear(tmp_path / "models/t.onnx"), "nan": undefined(tmp_path / "models/n.onnx")}
    job_dir = write_job(
        tmp_path,
        models,
        method=Method(energy_windows=2, energy_window_seconds=0.1, idle_seconds=0.1, quick=True),
        power=Power(meter="external", period_s=0.002),
    )
    task = {
        "job": load(job_dir).to_json(),
        "job_dir": str(job_dir),
        "columns": ["teacher", "nan"],
        "cores": None,
        "period_s": 0.002,
        "external": True,
        "watch": None,
        "windows": str(tmp_path / "work/windows.json"),
    }
    recorded = work(task, lambda *_: None)["windows"]
    content = json.loads((tmp_path / "work/windows.json").read_text())
    assert len(content["windows"]) == recorded >= 6
    assert set(content) == {"period_s", "pace_hz", "bursts", "warmup", "windows"}
    assert len(content["bursts"]) == 6
    good = [window for window in content["windows"] if window["rejected"] is None]
    for window in good:
        lasted = (window["end_ns"] - window["start_ns"]) / SECOND
        assert lasted >= 0.1
        assert window["seconds"] == pytest.approx(lasted, rel=0.01)
        assert (window["inferences"] > 0) == (window["kind"] == "active")
