"""Energy: raw joules of idle windows and of windows in which one variant runs back to back.

All variants are loaded in one pinned process, as for latency. Windows of the variants alternate, and the order turns
around with every round (ABBA), so that heat and drift hit all of them alike; an idle window comes before each round
and at the end.
"""

from __future__ import annotations

import gc
import math
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

from edgekd.agent.environment import throttle_counts
from edgekd.agent.errors import AgentError
from edgekd.agent.files import write_json
from edgekd.agent.job import parse
from edgekd.agent.latency import Call, open_columns, warm_up
from edgekd.agent.meters import Meter, find

Report = Callable[[str, str], None]

_EXTRA_ROUNDS = 2
_LONGEST = 1.5  # a window this many times longer than asked was disturbed


def work(task: Dict[str, Any], report: Report) -> Dict[str, Any]:
    """Measure the energy windows of all variants and write them.

    Args:
        task: "job" (content of job.json), "job_dir", "columns" (variants), "meter" (file name), "windows" (path to
        write). report: Called with the variant that is busy ("" for none) and what is being done.

    Returns:
        {"scope", "floor_j"}: what is counted, and the largest step of the counter.
    """
    job = parse(task["job"])
    _, meter, reason = find(task["meter"])
    if meter is None:
        raise AgentError(str(reason))
    columns: List[str] = task["columns"]
    calls, sessions = open_columns(job, Path(task["job_dir"]), columns, range(len(columns)), report)
    gc.collect()
    gc.disable()
    for name, call in zip(columns, calls):
        report(name, "%s: warm-up" % name)
        warm_up(call, job.method.warmup_seconds / len(columns), job.method.calls)
    floor_j = meter.floor_j()
    windows = measure_windows(
        meter, columns, calls, count=job.method.energy_windows, seconds=job.method.energy_window_seconds, report=report
    )
    write_json(Path(task["windows"]), windows)
    del sessions  # they had to outlive the last call
    return {"scope": meter.scope, "floor_j": floor_j}


def measure_windows(
    meter: Meter,
    columns: Sequence[str],
    calls: Sequence[Call],
    *,
    count: int,
    seconds: float,
    report: Report,
    throttled: Callable[[], Dict[str, int]] = throttle_counts,
) -> Dict[str, Any]:
    """Measure rounds of windows until every variant has `count` good ones; at most two rounds are added for rejected
    ones.

    Args:
        meter: The counter.
        columns: Names of the variants.
        calls: One inference of each.
        count: Active windows per variant.
        seconds: Length of a window.
        report: Called with the variant that is busy ("" for none) and what is being done.
        throttled: Gives the throttle counters of the device.

    Returns:
        {"idle": [...], "active": {variant: [...]}, "rejected": [{"variant", "reason", ...the window}]}; a window is
        {"start_ns", "end_ns" (monotonic clock), "joules"} and, if active, "inferences".
    """
    idle: List[Dict[str, Any]] = []
    active: Dict[str, List[Dict[str, Any]]] = {name: [] for name in columns}
    rejected: List[Dict[str, Any]] = []

    def take(name: str, call: Call) -> None:
        before = throttled()
        window = run_window(meter, call, seconds)
        reason = rejection(window, seconds, before, throttled())
        if reason is not None:
            rejected.append({"variant": name or None, "reason": reason, **window})
        elif name:
            active[name].append(window)
        else:
            del window["inferences"]
            idle.append(window)

    for turn in range(count + _EXTRA_ROUNDS):
        lacking = [index for index, name in enumerate(columns) if len(active[name]) < count]
        if not lacking:
            break
        report("", "idle, round %d of %d" % (turn + 1, count))
        take("", _doze)
        for index in lacking if turn % 2 == 0 else reversed(lacking):
            report(columns[index], "%s, round %d of %d" % (columns[index], turn + 1, count))
            take(columns[index], calls[index])
    take("", _doze)
    return {"idle": idle, "active": active, "rejected": rejected}


def run_window(meter: Meter, call: Call, seconds: float) -> Dict[str, Any]:
    """Call back to back for so many seconds, at least once, between two readings of the counter."""
    inferences = 0
    before = meter.read()
    start = now = time.monotonic_ns()
    deadline = start + int(seconds * 1e9)
    while inferences == 0 or now < deadline:
        call()
        inferences += 1
        now = time.monotonic_ns()
    after = meter.read()
    return {"start_ns": start, "end_ns": now, "joules": meter.joules(before, after), "inferences": inferences}


def rejection(window: Dict[str, Any], seconds: float, before: Dict[str, int], after: Dict[str, int]) -> Any:
    """Return why a window cannot be used, or None."""
    if not math.isfinite(window["joules"]) or window["joules"] <= 0:
        return "the counter did not move (%s J)" % window["joules"]
    lasted = (window["end_ns"] - window["start_ns"]) / 1e9
    if lasted > _LONGEST * seconds + 1 and window["inferences"] > 1:
        return "it lasted %.1f s instead of %g s" % (lasted, seconds)
    risen = sorted(name for name, value in after.items() if value > before.get(name, value))
    if risen:
        return "the device throttled: %s rose" % ", ".join(risen)
    return None


def _doze() -> None:
    """Wait without work; short, so that an idle window ends on time."""
    time.sleep(0.05)
