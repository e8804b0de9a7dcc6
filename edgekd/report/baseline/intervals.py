"""The change between two figures that know nothing of each other, from the interval that each has by itself."""

from __future__ import annotations

import math
from statistics import NormalDist

from edgekd.report.baseline.figures import Kind
from edgekd.report.baseline.snapshot import Figure
from edgekd.report.statistics import CONFIDENCE, Interval

_LARGEST = 50.0  # a logarithm of a ratio; exp of it is shown as infinite anyway


def independent(kind: Kind, before: Figure, after: Figure, confidence: float) -> tuple[float, Interval]:
    """Return the worsening, positive for the worse, and its interval, in the kind's unit.

    MOVER (Zou & Donner 2008; of Wilson's intervals it is Newcombe's method 10 of 1998): of a - b, with intervals
    [a1, a2] and [b1, b2], low = a - b - sqrt((a - a1)² + (b2 - b)²), high = a - b + sqrt((a2 - a)² + (b - b1)²);
    for ratios, of their logarithms. The intervals that are kept are 95 % ones; for another confidence they are widened
    as normal ones would be.
    """
    a, b = (_widened(figure, confidence, logarithmic=kind.is_ratio) for figure in (before, after))
    if not kind.more_is_better:
        a, b = b, a
    difference = a[0] - b[0]
    low = difference - math.hypot(a[0] - a[1], b[2] - b[0])
    high = difference + math.hypot(a[2] - a[0], b[0] - b[1])
    if kind.is_ratio:
        difference, low, high = (_percent(value) for value in (difference, low, high))
        return difference, (low, high)
    return 100 * difference, (100 * low, 100 * high)


def _widened(figure: Figure, confidence: float, *, logarithmic: bool) -> tuple[float, float, float]:
    """Value and ends of an interval of another confidence; where it is ratios that count, of the logarithm."""
    ends = figure.ci or (figure.value, figure.value)
    value, low, high = (_log(one) if logarithmic else one for one in (figure.value, *ends))
    factor = _z(confidence) / _z(CONFIDENCE)
    return value, value - factor * max(0.0, value - low), value + factor * max(0.0, high - value)


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _percent(logarithm: float) -> float:
    return 100 * math.expm1(min(logarithm, _LARGEST))
