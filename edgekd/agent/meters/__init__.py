"""Power sources: one module each, found by its file name.

A meter module has `open(root) -> Meter`, which raises AgentError with the reason in plain words when the source is not
there or may not be read. A meter gives time-stamped readings; nothing is integrated on the device.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Protocol, Sequence, Tuple, cast

from edgekd.agent.errors import AgentError
from edgekd.agent.root import ROOT

ORDER = ("ina3221", "tegrastats", "rapl")
"""What "auto" tries: the chips of a Jetson before its tool, which reads the same chips more coarsely; then x86.

A graphics card's meter has to be asked for: while the processor computes, an idle card's power would pass for its own.
"""

_COUNTER_SECONDS = 1.0  # a counter that has not moved by then does not count
_MOST_W = 10_000.0  # no edge device; some drivers return garbage where there is no sensor


@dataclass(frozen=True)
class Channel:
    """One quantity of a meter: "power" is watts now, "energy" is joules since the meter was opened."""

    name: str
    kind: str


@dataclass(frozen=True)
class Reading:
    """One value per channel, NaN where it could not be read, and CLOCK_MONOTONIC at the read."""

    time_ns: int
    values: Tuple[float, ...]


class Meter(Protocol):
    """An open power source.

    Attributes:
        scope: What is counted, for people: "module (VDD_IN)".
        scope_kind: "module", "rails", "carrier", "package", "board" or "wall"; different kinds are not comparable.
        channels: The quantities of a reading, all of them.
        total: The names of those channels whose sum is the total.
        period_s: A reading comes about so often, and is a new value.
        floor_w: Smallest step of the total in watts, where channels are powers and it is known.
        floor_j: Smallest step of the total in joules, where channels are counters and it is known.
    """

    scope: str
    scope_kind: str
    channels: Tuple[Channel, ...]
    total: Tuple[str, ...]
    period_s: float
    floor_w: Optional[float]
    floor_j: Optional[float]

    def read(self) -> Reading:
        """Return the next new reading; this blocks until there is one.

        Raises:
            AgentError: There will be no more readings.
        """

    def close(self) -> None:
        """Give back what the meter holds."""


class MeterModule(Protocol):
    """What every module of this package offers."""

    def open(self, root: Path) -> Meter:
        """Return the meter, or raise AgentError with the reason why there is none."""


def available() -> List[str]:
    """Return the names of the meters there are, whether their source is present or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str, root: Path = ROOT) -> Tuple[Optional[str], Optional[Meter], Optional[str]]:
    """Return (name, open meter, None), or (None, None, the reason in plain words). A meter counts only after one good
    reading: some are there and always say 0.

    Args:
        name: A meter's file name, "auto" for the first of `ORDER` that can be read, or "none".
        root: Where the device's file system starts; another folder in tests.

    Raises:
        AgentError: There is no meter of this name.
    """
    if name == "none":
        return None, None, "energy measurement is switched off (power meter: none)"
    if name != "auto" and name not in available():
        raise AgentError("there is no power meter %r; there are auto, none, %s" % (name, ", ".join(available())))
    reasons = []
    for candidate in ORDER if name == "auto" else [name]:
        module = cast("MeterModule", importlib.import_module("%s.%s" % (__name__, candidate)))
        try:
            meter = module.open(root)
            try:
                _check_reading(meter)
            except AgentError:
                meter.close()
                raise
            return candidate, meter, None
        except AgentError as error:
            reasons.append("%s: %s" % (candidate, error))
    return None, None, "; ".join(reasons)


def total(meter: Meter, values: Sequence[float]) -> float:
    """Return the sum of a reading's total channels; NaN if one of them could not be read, or there are none."""
    if not meter.total:
        return math.nan
    return math.fsum(value for channel, value in zip(meter.channels, values) if channel.name in meter.total)


def _check_reading(meter: Meter) -> None:
    """Raise AgentError unless a reading of the total is possible: watts above 0, or a counter that moves."""
    if not meter.channels:
        return  # the readings come from elsewhere
    kinds = {channel.kind for channel in meter.channels if channel.name in meter.total}
    value = total(meter, meter.read().values)
    if kinds == {"power"}:
        if not 0 < value < _MOST_W:
            raise AgentError("no good reading: the total, %s, is %g W" % (meter.scope, value))
        return
    first, deadline = value, time.monotonic() + _COUNTER_SECONDS
    while not value > first:
        if math.isnan(value) or time.monotonic() > deadline:
            raise AgentError("no good reading: the counter of %s does not move" % meter.scope)
        value = total(meter, meter.read().values)
