"""One window of a meter's readings -> joules: integrated, or rejected with the reason.

Pure functions of what the device recorded. What cannot be trusted is rejected, never repaired, and nothing is
extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.report.statistics import FloatArray

Kind = Literal["power", "energy"]

TOLERANCE = 0.01  # seconds of two clocks; mean watts x seconds against joules, recorded independently
MAX_GAP = 2.5  # periods between two readings
MIN_READINGS = 20  # inside a window
NS = 1e-9
_IMPOSSIBLE = 1e12  # watts or joules of a device that a person can carry


class RejectedError(Exception):
    """The readings do not support a measurement; the message is the reason that the report prints."""


@dataclass(frozen=True)
class Readings:
    """What a meter gave.

    Args:
        time_ns: When each reading was taken, int64 nanoseconds on the device's monotonic clock [N].
        values: One column per channel [N, C]: watts, or joules since the meter was opened.
        channels: The kind of each channel by its name, in the order of the columns.
        total: The channels whose sum is the total; all of one kind.
        period_s: A reading comes about so often.
    """

    time_ns: NDArray[np.int64]
    values: FloatArray
    channels: Mapping[str, Kind]
    total: Sequence[str]
    period_s: float

    @property
    def kind(self) -> Kind:
        """Whether the total is watts now, or joules so far."""
        return self.channels[self.total[0]]

    def summed(self, begin: int = 0, end: int | None = None) -> FloatArray:
        """The total of readings `begin` to `end`; NaN where a channel of it is missing."""
        names = list(self.channels)
        columns = [names.index(name) for name in self.total]
        found: FloatArray = self.values[begin:end, columns].sum(axis=1)
        return found


@dataclass(frozen=True)
class Window:
    """A time in which the device idled, or ran one variant.

    Args:
        kind: "idle" or "active".
        variant: The variant that ran; None while idle.
        start_ns: Begin on the clock of the readings. `end_ns`: end.
        seconds: Its length by another clock.
        inferences: How many ended in it.
        late: Paced inferences that missed their slot.
        mean_power_w: What the agent itself made of it; None where it read no meter.
        rejected: Why the agent discards it, or None.
    """

    kind: Literal["idle", "active"]
    variant: str | None
    start_ns: int
    end_ns: int
    seconds: float
    inferences: int = 0
    late: int = 0
    mean_power_w: float | None = None
    rejected: str | None = None


@dataclass(frozen=True)
class Judged:
    """A window with the joules in it, or with the reason why it does not count."""

    window: Window
    joules: float = math.nan
    reason: str | None = None

    @property
    def watts(self) -> float:
        """Mean power."""
        return self.joules / self.seconds

    @property
    def seconds(self) -> float:
        """Length on the clock of the readings."""
        return (self.window.end_ns - self.window.start_ns) * NS

    @property
    def middle_s(self) -> float:
        """The moment in its middle, on the clock of the readings."""
        return (self.window.start_ns + self.window.end_ns) / 2 * NS


def judge(readings: Readings, window: Window) -> Judged:
    """Integrate a window, or say why it does not count."""
    if window.rejected is not None:
        return Judged(window, reason=window.rejected)
    try:
        lasted = (window.end_ns - window.start_ns) * NS
        if not abs(lasted - window.seconds) <= TOLERANCE * lasted:
            raise RejectedError(
                f"it lasted {lasted:.4g} s on one clock and {window.seconds:.4g} s on another: "
                f"they differ by more than {TOLERANCE:.0%}"
            )
        if window.kind == "active" and window.inferences < 1:
            raise RejectedError("no inference ended in it")
        return Judged(window, joules_between(readings, window.start_ns, window.end_ns))
    except RejectedError as rejected:
        return Judged(window, reason=str(rejected))


def joules_between(readings: Readings, start_ns: int, end_ns: int, *, min_readings: int = MIN_READINGS) -> float:
    """Joules between two moments.

    Power: trapezoids between readings, the power at the edges interpolated between the readings around them. Counter:
    its value at the edges interpolated likewise, and subtracted.

    Args:
        readings: Of which one at or before the start and one at or after the end are needed: nothing is extrapolated.
        start_ns: Begin. `end_ns`: end.
        min_readings: Fewest readings strictly inside.

    Raises:
        RejectedError: The window is not covered, a gap of more than 2.5 periods, too few readings, a total that is
            missing, not finite or not positive, a counter that goes backwards.
    """
    times, total = _covering(readings, start_ns, end_ns, min_readings)
    end = (end_ns - start_ns) * NS
    edges = np.interp([0.0, end], times, total)
    if readings.kind == "power":
        if (total <= 0).any():
            raise RejectedError(f"the total of a reading is {total.min():.4g} W: a device that runs draws more than 0")
        moments = np.concatenate([[0.0], times[1:-1], [end]])
        return float(np.trapezoid(np.concatenate([edges[:1], total[1:-1], edges[1:]]), moments))
    if (np.diff(total) < 0).any():
        raise RejectedError("the counter goes backwards")
    if not edges[1] > edges[0]:
        raise RejectedError("the counter did not move")
    return float(edges[1] - edges[0])


def _covering(readings: Readings, start_ns: int, end_ns: int, min_readings: int) -> tuple[FloatArray, FloatArray]:
    """The readings inside and the one on each side: seconds since the start [n], their total [n]."""
    first = int(np.searchsorted(readings.time_ns, start_ns, side="right")) - 1
    last = int(np.searchsorted(readings.time_ns, end_ns, side="left"))
    if start_ns >= end_ns or first < 0 or last >= len(readings.time_ns):
        raise RejectedError("the readings do not cover it")
    if last - first - 1 < min_readings:
        raise RejectedError(f"{last - first - 1} readings in it, at least {min_readings} are needed")
    # Nanoseconds are subtracted as integers: the zero of the clock costs no precision.
    times = (readings.time_ns[first : last + 1] - start_ns).astype(np.float64) * NS
    gap = float(np.diff(times).max())
    if gap > MAX_GAP * readings.period_s:
        raise RejectedError(
            f"a gap of {gap:.3g} s between readings, {MAX_GAP} periods are {MAX_GAP * readings.period_s:.3g} s"
        )
    total = readings.summed(first, last + 1)
    if not (np.abs(total) < _IMPOSSIBLE).all():  # False for NaN too
        raise RejectedError("the total of a reading is missing or not finite")
    return times, total


def polygon_means(times: FloatArray, values: FloatArray, edges: FloatArray) -> FloatArray:
    """The mean between successive edges [n + 1] -> [n] of the straight lines through points: times [N], values [N]."""
    moments = np.union1d(times, edges)
    level = np.interp(moments, times, values)
    area = np.concatenate([[0.0], np.cumsum(np.diff(moments) * (level[1:] + level[:-1]) / 2)])
    found: FloatArray = np.diff(np.interp(edges, moments, area)) / np.diff(edges)
    return found
