"""Energy: windows in which one variant runs, or none, while the agent's main process reads the power meter.

All variants are loaded in one pinned process, as for latency. An idle window comes before and after all others. The
windows of the variants alternate, and the order turns around with every round (ABBA), so that heat and drift hit all of
them alike. A window lies within a longer run of its variant, so that a meter which averages, or is a little late, sees
the same load at the window's edges. What happened in a window is looked at outside of it; one that cannot be trusted is
kept with the reason and repeated in at most two extra rounds.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

from edgekd.agent.errors import AgentError
from edgekd.agent.files import write_json
from edgekd.agent.job import parse
from edgekd.agent.latency import open_columns
from edgekd.agent.method import Method
from edgekd.agent.rejecting import Conditions, changed, look, unfit, unseen
from edgekd.agent.sampling import Progress, Watch
from edgekd.agent.warming import warm_up
from edgekd.agent.windows import Call, Timed, burst, run

Report = Callable[[str, str], None]

_EXTRA_ROUNDS = 2
_FIRST_CALLS = 3  # some runtimes allocate at the first call, which must not fall into an idle window

_FEWEST_PERIODS = 25  # so that 20 readings are inside for sure
_WINDOWS_S = ((0.01, 5.0), (0.2, 30.0))  # up to this period so long a window
_SLOWEST_WINDOW_S = 60.0
_IDLE_S = 30.0
_WARMUP_S = 10.0
_MARGIN_PERIODS, _MARGIN_S = 2, 1.0  # clocks rise within a second; a tenth of a window if that is shorter
_PAUSE_S = 2.0  # between windows; a tenth of a window if that is shorter
_BURST_PERIODS, _SHORTEST_BURST_S = 3, 0.2  # a burst of two periods would just be seen


@dataclass(frozen=True)
class Plan:
    """How long everything takes, in seconds.

    Attributes:
        count: Good windows of each variant.
        window_s: An active window.
        idle_s: An idle window.
        margin_s: The variant runs so long before and after each of its windows.
        pause_s: Nothing runs so long between windows.
        warmup_s: Shortest warm-up.
        period_s: Period of the meter.
        pace_hz: Inferences per second; None: back to back.
        burst_s: Unit of the marker bursts; None: there are none.
    """

    count: int
    window_s: float
    idle_s: float
    margin_s: float
    pause_s: float
    warmup_s: float
    period_s: float
    pace_hz: Optional[float]
    burst_s: Optional[float]


@dataclass(frozen=True)
class Windows:
    """The windows under way: what is measured, how, and what was recorded until now.

    `look` gives the conditions, `watch` the progress of the sampler (None: the samples come from elsewhere).
    """

    plan: Plan
    calls: Dict[str, Call]
    look: Callable[[], Conditions]
    watch: Optional[Callable[[], Progress]]
    report: Report
    recorded: List[Dict[str, Any]] = field(default_factory=list)

    def good(self, variant: str) -> int:
        """Return how many windows of a variant can be used."""
        return sum(window["variant"] == variant and window["rejected"] is None for window in self.recorded)


def work(task: Dict[str, Any], report: Report) -> Dict[str, Any]:
    """Measure the energy windows of all variants and write them.

    Args:
        task: "job" (content of job.json), "job_dir", "columns" (variants), "cores" (to which this process is pinned, or
            None); and of the meter "period_s", "watch" (path for `Watch`, or None), "external" (whether its samples
            come from elsewhere), "windows" (path to write).
        report: Called with the variant that is busy ("" for none) and what is being done.

    Returns:
        {"windows": how many were recorded}.

    Raises:
        AgentError: The meter failed meanwhile.
    """
    job = parse(task["job"])
    columns: List[str] = task["columns"]
    plan = make_plan(job.method, job.power.pace_hz, task["period_s"], task["external"])
    calls, sessions = open_columns(job, Path(task["job_dir"]), columns, range(len(columns)), report)
    gc.collect()
    gc.disable()
    watch = None if task["watch"] is None else Watch(Path(task["watch"])).read
    windows = Windows(plan, dict(zip(columns, calls)), lambda: look(task["cores"]), watch, report)
    write_json(Path(task["windows"]), measure(windows))
    del sessions  # they had to outlive the last call
    return {"windows": len(windows.recorded)}


def make_plan(method: Method, pace_hz: Optional[float], period_s: float, external: bool) -> Plan:
    """Return how long everything takes with a meter of this period; a quick measurement does only what it was asked."""
    window = next((seconds for period, seconds in _WINDOWS_S if period_s <= period), _SLOWEST_WINDOW_S)
    window = window if method.energy_window_seconds is None else method.energy_window_seconds
    window = max(window, _FEWEST_PERIODS * period_s)
    idle = max(window, 0 if method.quick else _IDLE_S) if method.idle_seconds is None else method.idle_seconds
    margin = max(_MARGIN_PERIODS * period_s, min(_MARGIN_S, window / 10))
    return Plan(
        count=method.energy_windows,
        window_s=window,
        idle_s=max(idle, _FEWEST_PERIODS * period_s),
        margin_s=margin,
        pause_s=max(margin, min(_PAUSE_S, window / 10)),
        warmup_s=min(_WARMUP_S, window) if method.quick else _WARMUP_S,
        period_s=period_s,
        pace_hz=pace_hz,
        burst_s=max(_BURST_PERIODS * period_s, _SHORTEST_BURST_S) if external else None,
    )


def measure(windows: Windows) -> Dict[str, Any]:
    """Record all windows until every variant has enough good ones, with at most two rounds more for rejected ones.

    Returns:
        The content of samples/energy.json without what the main process knows: {"period_s", "pace_hz", "bursts",
        "warmup", "windows"}.
    """
    plan, columns, report = windows.plan, list(windows.calls), windows.report
    heaviest = _try_all(windows)
    bursts = _bursts(windows, heaviest)
    _idle(windows, "before")
    report("", "warm-up for energy")
    warm = warm_up(list(windows.calls.values()), plan.warmup_s, plan.pace_hz, lambda: windows.look().clocks)
    warm_mhz = warm.clocks if plan.pace_hz is None else {}  # between paced calls they fall, and may
    for turn in range(plan.count + _EXTRA_ROUNDS):
        lacking = [name for name in columns if windows.good(name) < plan.count]
        if not lacking:
            break
        for name in lacking if turn % 2 == 0 else reversed(lacking):
            report(name, "%s: energy, window %d of %d" % (name, windows.good(name) + 1, plan.count))
            _take(windows, name, warm_mhz)
    _idle(windows, "after")
    bursts += _bursts(windows, heaviest)
    return {
        "period_s": plan.period_s,
        "pace_hz": plan.pace_hz,
        "bursts": bursts,
        "warmup": {"seconds": warm.seconds, "steady": warm.steady, "reason": warm.reason},
        "windows": windows.recorded,
    }


def _take(windows: Windows, variant: Optional[str], warm_mhz: Mapping[str, float]) -> bool:
    """Record one window, of a variant or idle; return whether it can be used."""
    plan, watch = windows.plan, windows.watch
    call = None if variant is None else windows.calls[variant]
    pace_hz, length = plan.pace_hz, plan.idle_s if variant is None else plan.window_s
    time.sleep(plan.pause_s)
    before = windows.look()
    run(call, plan.margin_s, pace_hz)
    begin = watch() if watch else None
    timed = run(call, length, pace_hz)
    end = watch() if watch else None
    run(call, plan.margin_s, pace_hz)
    after = windows.look()
    reason = changed(before, after, warm_mhz) or unfit(timed, length, pace_hz)
    if watch and begin and end:
        later = watch()
        if later.failed:
            raise AgentError("the power meter failed")
        reason = reason or unseen(plan.period_s, begin, end, later, time.monotonic_ns())
    window = {**_as_json(variant, timed), "rejected": reason}
    windows.recorded.append(window)
    return reason is None


def _idle(windows: Windows, when: str) -> None:
    """Record an idle window; where it is rejected another one, and at most two more."""
    for _ in range(1 + _EXTRA_ROUNDS):
        windows.report("", "energy: idle %s the windows" % when)
        if _take(windows, None, {}):
            return


def _as_json(variant: Optional[str], timed: Timed) -> Dict[str, Any]:
    return {
        "kind": "idle" if variant is None else "active",
        "variant": variant,
        "start_ns": timed.start_ns,
        "end_ns": timed.end_ns,
        "seconds": timed.seconds,
        "inferences": timed.inferences,
        "late": timed.late,
    }


def _try_all(windows: Windows) -> str:
    """Run every variant a few times; return the one that takes longest, which makes the plainest load."""
    times = {}
    for name, call in windows.calls.items():
        windows.report(name, "%s: first calls" % name)
        for _ in range(_FIRST_CALLS):
            start = time.perf_counter()
            call()
            times[name] = time.perf_counter() - start
    return max(times, key=lambda name: times[name])


def _bursts(windows: Windows, variant: str) -> List[List[int]]:
    if windows.plan.burst_s is None:
        return []
    windows.report(variant, "bursts of load, to align the external meter by")
    return burst(windows.calls[variant], windows.plan.burst_s)
