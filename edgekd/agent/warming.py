"""Warm-up before energy is measured: until the clocks stay and the temperatures hardly rise."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np

from edgekd.agent.clocks import temperatures_c
from edgekd.agent.windows import Call, run

_OBSERVATIONS = 10  # in the shortest warm-up; so many are compared
_LIMIT = 6  # times the shortest warm-up
_CLOCK_SPREAD = 0.05
_RISE_C = 1.0


@dataclass(frozen=True)
class WarmUp:
    """A warm-up.

    Attributes:
        seconds: How long it took.
        steady: Whether clocks and temperatures had come to rest.
        reason: Why not.
        clocks: The clocks at its end, MHz, by name.
    """

    seconds: float
    steady: bool
    reason: Optional[str]
    clocks: Dict[str, float]


def warm_up(
    calls: Sequence[Call],
    seconds: float,
    pace_hz: Optional[float],
    clocks: Callable[[], Dict[str, float]],
    temperatures: Callable[[], Dict[str, float]] = temperatures_c,
) -> WarmUp:
    """Run the calls in turn for at least so many seconds, then until the device is steady, at most six times as long.

    Args:
        calls: One inference of each variant.
        seconds: Shortest warm-up.
        pace_hz: As in the windows. Paced calls leave the clocks free to fall, so only temperatures are compared.
        clocks: Gives the present clocks in MHz.
        temperatures: Gives the present temperatures in degC.
    """
    part = seconds / _OBSERVATIONS / len(calls)
    seen_clocks: List[Dict[str, float]] = []
    seen_temperatures: List[Dict[str, float]] = []
    begin = time.monotonic()
    while True:
        for call in calls:
            run(call, part, pace_hz)
        seen_clocks.append(clocks())
        seen_temperatures.append(temperatures())
        spent = time.monotonic() - begin
        if len(seen_clocks) < _OBSERVATIONS or spent < seconds:
            continue
        last = seen_clocks[-_OBSERVATIONS:]
        judged = {} if pace_hz is not None else _series(last), _series(seen_temperatures[-_OBSERVATIONS:])
        if not any(judged):
            reason = "this device tells no clocks or temperatures to judge by"
            return WarmUp(spent, False, reason, _medians(last))
        moving = _moving(*judged)
        if moving is None or spent >= _LIMIT * seconds:
            return WarmUp(spent, moving is None, moving, _medians(last))


def _moving(clocks: Mapping[str, List[float]], temperatures: Mapping[str, List[float]]) -> Optional[str]:
    """Return what still moves; None where nothing does."""
    for name, values in clocks.items():
        if max(values) > min(values) * (1 + _CLOCK_SPREAD):
            return "the clock of %s moved between %.0f and %.0f MHz" % (name, min(values), max(values))
    for name, values in temperatures.items():
        if max(values) - min(values) > _RISE_C:
            return "the temperature of %s moved between %.1f and %.1f degC" % (name, min(values), max(values))
    return None


def _series(seen: Sequence[Mapping[str, float]]) -> Dict[str, List[float]]:
    """Return the values of each name over time."""
    names = sorted({name for values in seen for name in values})
    return {name: [values[name] for values in seen if name in values] for name in names}


def _medians(seen: Sequence[Mapping[str, float]]) -> Dict[str, float]:
    return {name: float(np.median(values)) for name, values in _series(seen).items()}
