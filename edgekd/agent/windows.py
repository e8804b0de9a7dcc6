"""What runs in a window of energy: one variant back to back, one variant at a fixed rate, or nothing."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Callable, List, Optional

Call = Callable[[], object]

# Load and pauses between, in units: unequal, so that no shift but the right one lays them over each other.
_BURSTS = (2, 1, 3)
_PAUSES = (1, 2)
_QUIET = 2


@dataclass(frozen=True)
class Timed:
    """A stretch of time and what ran in it.

    Attributes:
        start_ns: CLOCK_MONOTONIC at its begin.
        end_ns: CLOCK_MONOTONIC at its end.
        seconds: Its length by another clock reading (`perf_counter`).
        inferences: Calls that were finished.
        late: Of paced calls, the slots whose call came late or not at all, because an earlier one was still running.
    """

    start_ns: int
    end_ns: int
    seconds: float
    inferences: int
    late: int


def run(call: Optional[Call], seconds: float, pace_hz: Optional[float]) -> Timed:
    """Run for so many seconds: nothing without a call, back to back without a pace."""
    if call is None:
        return _idle(seconds)
    if pace_hz is None:
        return _back_to_back(call, seconds)
    return _paced(call, seconds, pace_hz)


def burst(call: Call, unit_s: float) -> List[List[int]]:
    """Run a call in short bursts that a meter elsewhere can be aligned by; return their [start_ns, end_ns]."""
    marks = []
    run(None, _QUIET * unit_s, None)
    for length, pause in zip(_BURSTS, (*_PAUSES, _QUIET)):
        timed = run(call, length * unit_s, None)
        marks.append([timed.start_ns, timed.end_ns])
        run(None, pause * unit_s, None)
    return marks


def _idle(seconds: float) -> Timed:
    begin, start = time.perf_counter(), time.monotonic_ns()
    time.sleep(seconds)
    return Timed(start, time.monotonic_ns(), time.perf_counter() - begin, 0, 0)


def _back_to_back(call: Call, seconds: float) -> Timed:
    """Call until the time is over, at least once."""
    calls, begin = 0, time.perf_counter()
    start = now = time.monotonic_ns()
    deadline = start + int(seconds * 1e9)
    while calls == 0 or now < deadline:
        call()
        calls += 1
        now = time.monotonic_ns()
    return Timed(start, now, time.perf_counter() - begin, calls, 0)


def _paced(call: Call, seconds: float, pace_hz: float) -> Timed:
    """Call once in every slot of 1/pace_hz seconds, and sleep for the rest of it; the window is a whole number of
    slots. A call that lasts longer makes the next ones late; those whose whole slot has passed are left out."""
    slots = max(1, math.ceil(seconds * pace_hz - 1e-9))
    slot, inferences, late, begin = 0, 0, 0, time.perf_counter()
    start = time.monotonic_ns()
    while slot < slots:
        due = start + int(slot / pace_hz * 1e9)
        _sleep_until(due)
        call()
        inferences += 1
        current = int((time.monotonic_ns() - start) / 1e9 * pace_hz)  # the slot that it is now
        late += max(0, min(current, slots - 1) - slot)
        slot = max(slot + 1, current)
    _sleep_until(start + int(slots / pace_hz * 1e9))
    return Timed(start, time.monotonic_ns(), time.perf_counter() - begin, inferences, late)


def _sleep_until(moment_ns: int) -> None:
    left = moment_ns - time.monotonic_ns()
    if left > 0:
        time.sleep(left / 1e9)
