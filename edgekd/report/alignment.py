"""Where an external meter's clock stands against the device's.

The device's load goes up and down in marker bursts before and after the windows. Found again in the meter's readings by
normalized cross-correlation, the first group gives the difference of the two clocks, and the second how they drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgekd.report.integration import RejectedError, polygon_means
from edgekd.report.statistics import FloatArray

Span = tuple[float, float]

MAX_DRIFT = 1e-3  # of one clock against the other: ten times what cheap crystals do
MIN_CORRELATION = 0.8  # of the readings with the bursts
MIN_LEAD = 0.1  # of the best place over any other
_CELLS = 10  # of the search, per shortest part of the pattern
_FINE = 20  # places per cell, once the cell is known
_LARGEST = 4_000_000  # cells that are searched
_HINT = "Does the file cover the whole measurement, and some seconds more? Does the meter feed this device only?"


@dataclass(frozen=True)
class Alignment:
    """The meter's time of a moment is offset_s + (1 + drift) x (the device's time - origin_s).

    Args:
        origin_s: Begin of the first burst on the device's clock.
        offset_s: The same moment on the meter's clock.
        drift: How much faster the meter's clock runs.
        correlation: Of the readings with the bursts, the worse of the two groups.
    """

    origin_s: float
    offset_s: float
    drift: float
    correlation: float

    def on_device(self, times_s: FloatArray) -> FloatArray:
        """Moments of the meter's clock as seconds of the device's."""
        found: FloatArray = (times_s - self.offset_s) / (1 + self.drift) + self.origin_s
        return found


@dataclass(frozen=True)
class _Pattern:
    """A group of bursts, in seconds of the device's clock, with a little rest on both sides."""

    begin: float
    end: float
    bursts: tuple[Span, ...]

    def load(self, begins: FloatArray, ends: FloatArray) -> FloatArray:
        """The share of load between moments of the device's clock [n], [n] -> [n]."""
        share: FloatArray = (self._load_until(ends) - self._load_until(begins)) / (ends - begins)
        return share

    def _load_until(self, moments: FloatArray) -> FloatArray:
        starts, ends = (np.array(side) for side in zip(*self.bursts, strict=True))
        seconds: FloatArray = np.clip(moments[:, None] - starts, 0, ends - starts).sum(axis=1)
        return seconds


def align(bursts: Sequence[Span], windows: Sequence[Span], times_s: FloatArray, watts: FloatArray) -> Alignment:
    """Find the meter's clock.

    Args:
        bursts: Begin and end of each marker burst, seconds of the device's clock; some before and some after all
            windows.
        windows: Begin and end of each window, likewise.
        times_s: Of the meter's readings, seconds of its own clock, increasing [N].
        watts: What it read [N].

    Raises:
        RejectedError: There are no bursts, or the readings do not show them clearly in one place and no other.
    """
    before, after, shortest = _patterns(bursts, windows)
    period = float(np.median(np.diff(times_s)))
    if period > shortest / 2:
        raise RejectedError(
            f"a reading every {period:.3g} s does not show marker bursts of {shortest:.3g} s: set power.period_s in "
            "the device's profile to the period of the meter, so that the bursts are longer, and measure again"
        )
    cell = shortest / _CELLS
    cells = int((times_s[-1] - times_s[0]) / cell)
    if cells > _LARGEST:
        raise RejectedError("the meter's file is too long to be searched for the marker bursts: cut it to a few hours")
    edges = times_s[0] + cell * np.arange(cells + 1)
    power = polygon_means(times_s, watts, edges)
    first, second = (_correlations(power, pattern, cell) for pattern in (before, after))
    correlation, *places = _best_place(first, second, distance=(after.begin - before.begin) / cell)
    begins = [
        _refined(pattern, edges[0] + cell * place, cell, times_s, watts)
        for pattern, place in zip((before, after), places, strict=True)
    ]
    drift = (begins[1] - begins[0]) / (after.begin - before.begin) - 1
    origin = before.bursts[0][0]
    return Alignment(origin, begins[0] + (1 + drift) * (origin - before.begin), drift, correlation)


def _patterns(bursts: Sequence[Span], windows: Sequence[Span]) -> tuple[_Pattern, _Pattern, float]:
    """The groups before and after the windows, and the length of the shortest burst or pause in them."""
    begin = min((start for start, _ in windows), default=0.0)
    end = max((end for _, end in windows), default=0.0)
    groups = [
        tuple(sorted(burst for burst in bursts if burst[1] <= begin)),
        tuple(sorted(burst for burst in bursts if burst[0] >= end)),
    ]
    if not windows or not all(groups):
        raise RejectedError("the measurement has no marker bursts before and after its windows")
    lengths = [stop - start for group in groups for start, stop in group]
    lengths += [later[0] - earlier[1] for group in groups for earlier, later in pairwise(group)]
    shortest = min(lengths)
    if not shortest > 0:
        raise RejectedError("the marker bursts of the measurement overlap")
    rest = shortest / 2
    before, after = (_Pattern(group[0][0] - rest, group[-1][1] + rest, group) for group in groups)
    return before, after, shortest


def _correlations(power: FloatArray, pattern: _Pattern, cell: float) -> FloatArray:
    """Pearson's correlation of the pattern with the power from every cell on; -1 where the pattern does not fit in."""
    n = max(2, round((pattern.end - pattern.begin) / cell))
    found = np.full(len(power), -1.0)
    if len(power) < n:
        return found
    edges = pattern.begin + cell * np.arange(n + 1, dtype=np.float64)
    load = pattern.load(edges[:-1], edges[1:])
    load = load - load.mean()
    power = power - power.mean()
    size = 1 << (len(power) + n).bit_length()
    product = np.fft.irfft(np.fft.rfft(power, size) * np.conj(np.fft.rfft(load, size)), size)[: len(power) - n + 1]
    sums, squares = (np.concatenate([[0.0], np.cumsum(each)]) for each in (power, power**2))
    spread = np.maximum(0.0, (squares[n:] - squares[:-n]) - (sums[n:] - sums[:-n]) ** 2 / n)
    norm = np.sqrt(spread * float((load**2).sum()))
    least = 1e-9 * float((power**2).sum() * (load**2).sum()) ** 0.5
    found[: len(product)] = np.where(norm > least, product / np.maximum(norm, least + 1e-300), 0.0)
    return found


def _best_place(first: FloatArray, second: FloatArray, distance: float) -> tuple[float, int, int]:
    """The cells where both patterns begin, as far apart as the device's clock says, give or take the drift.

    Returns:
        The correlation of the worse of the two, and the two cells.
    """
    slack = int(np.ceil(MAX_DRIFT * distance)) + 1
    inner = np.maximum(np.roll(first, 1), np.roll(first, -1))
    peaks = np.flatnonzero((first >= inner) & (first > MIN_CORRELATION - 2 * MIN_LEAD))
    scored = []
    for peak in peaks.tolist():
        around = max(0, round(peak + distance) - slack)
        part = second[around : round(peak + distance) + slack + 1]
        if len(part):
            scored.append((min(float(first[peak]), float(part.max())), peak, around + int(part.argmax())))
    best = max(scored, default=(0.0, 0, 0))
    if best[0] < MIN_CORRELATION:
        raise RejectedError(
            "the external meter's readings do not show the marker bursts before and after the windows (correlation "
            f"{best[0]:.2f}, {MIN_CORRELATION} is needed). {_HINT}"
        )
    other = max((score for score, peak, _ in scored if abs(peak - best[1]) > _CELLS), default=0.0)
    if best[0] - other < MIN_LEAD:
        raise RejectedError(
            "the marker bursts fit in more than one place of the external meter's readings (correlations "
            f"{best[0]:.2f} and {other:.2f}): cut the file to the time of this measurement"
        )
    return best


def _refined(pattern: _Pattern, start: float, cell: float, times: FloatArray, watts: FloatArray) -> float:
    """The pattern's begin on the meter's clock to a fraction of a cell: where the readings fit it best.

    Each reading is compared with the load over its own period, centred on it.
    """
    length = pattern.end - pattern.begin
    near = slice(*np.searchsorted(times, [start - cell, start + length + cell]))
    times, watts = times[near], watts[near]
    half = float(np.median(np.diff(times))) / 2
    best = (start, -1.0)
    for shift in np.arange(-_FINE, _FINE + 1) * (cell / _FINE):
        moments = times - (start + shift) + pattern.begin
        inside = (moments >= pattern.begin) & (moments <= pattern.end)
        if inside.sum() < 3 or np.ptp(watts[inside]) == 0:
            continue
        load = pattern.load(moments[inside] - half, moments[inside] + half)
        if np.ptp(load) > 0:
            correlation = float(np.corrcoef(load, watts[inside])[0, 1])
            best = max(best, (float(start + shift), correlation), key=lambda found: found[1])
    return best[0]
