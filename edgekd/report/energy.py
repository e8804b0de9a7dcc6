"""Energy per inference from meter readings: windows of a counter, or samples of a power sensor.

A window that cannot be trusted is rejected with its reason, never repaired. Joules are gross: what the metered scope
drew while the inferences ran. The idle-subtracted figure is a second row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.report.statistics import Estimate, FloatArray, paired_medians

TOLERANCE = 0.01  # mean watts x seconds against joules, recorded independently
MAX_GAP = 2.5  # sampling periods
NS = 1e-9


class RejectedError(Exception):
    """The readings do not support a measurement; the message is the reason that the report prints."""


@dataclass(frozen=True)
class EnergyPerInference:
    """Joules per inference of one variant.

    Args:
        gross: Median over windows, interval over windows (a bootstrap: with five windows it is their range).
        dynamic: The same with the idle power subtracted; None without an idle window. It may be negative.
        low: Smallest window, joules per inference. `high`: the largest.
        mean_power_w: Energy over time, all windows together.
    """

    gross: Estimate
    dynamic: Estimate | None
    low: float
    high: float
    windows: int
    inferences: int
    mean_power_w: float


def energy_from_samples(
    times_s: FloatArray, watts: FloatArray, start_s: float, end_s: float, *, period_s: float, min_samples: int = 20
) -> float:
    """Joules between two moments, from time-stamped power samples.

    Trapezoids between samples, with the power at the edges interpolated between the samples around them.

    Args:
        times_s: When each sample was read, seconds on a monotonic clock, strictly increasing [N].
        watts: What it read [N].
        start_s: Begin of the window; a sample at or before it is needed (nothing is extrapolated).
        end_s: End of the window; a sample at or after it is needed.
        period_s: The sensor's nominal sampling period.
        min_samples: Fewest samples inside the window.

    Raises:
        RejectedError: Samples that are not finite or not in order, a gap of more than 2.5 periods, too few samples,
            or a window that they do not cover.
    """
    if not (np.isfinite(times_s).all() and np.isfinite(watts).all()):
        raise RejectedError("a power sample is missing or not finite")
    if (np.diff(times_s) <= 0).any():
        raise RejectedError("the time stamps of the power samples do not increase")
    if not start_s < end_s or len(times_s) == 0 or times_s[0] > start_s or times_s[-1] < end_s:
        raise RejectedError("the power samples do not cover the window")
    inside = (times_s > start_s) & (times_s < end_s)
    if inside.sum() < min_samples:
        raise RejectedError(f"{inside.sum()} power samples in the window, at least {min_samples} are needed")
    first, last = np.searchsorted(times_s, start_s, side="right") - 1, np.searchsorted(times_s, end_s, side="left")
    gap = float(np.diff(times_s[first : last + 1]).max())
    if gap > MAX_GAP * period_s:
        raise RejectedError(
            f"a gap of {gap:.3g} s between power samples, {MAX_GAP} periods are {MAX_GAP * period_s:.3g} s"
        )
    edges = np.interp([start_s, end_s], times_s, watts)
    moments = np.concatenate([[start_s], times_s[inside], [end_s]])
    return float(np.trapezoid(np.concatenate([edges[:1], watts[inside], edges[1:]]), moments))


def energy_per_inference(
    active: Sequence[Mapping[str, Any]], idle: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> EnergyPerInference:
    """Energy per inference from windows of an energy counter.

    Args:
        active: Windows {"start_ns", "end_ns", "joules", "inferences"}, and where the meter records it independently
            "mean_power_w".
        idle: Windows without inferences, of the same scope.
        seed: Of the bootstrap over windows.

    Raises:
        RejectedError: No window, or one that is not finite, empty, or whose watts times seconds are not its joules.
    """
    if not active:
        raise RejectedError("no active window was recorded")
    seconds, joules = _checked(active)
    counts = np.array([window.get("inferences", 0) for window in active], np.float64)
    if not (counts >= 1).all():
        raise RejectedError("a window without inferences")
    gross = joules / counts
    dynamic = None
    if idle:
        idle_seconds, idle_joules = _checked(idle)
        dynamic = (joules - seconds * (idle_joules.sum() / idle_seconds.sum())) / counts
    return EnergyPerInference(
        gross=_over_windows(gross, seed),
        dynamic=None if dynamic is None else _over_windows(dynamic, seed),
        low=float(gross.min()),
        high=float(gross.max()),
        windows=len(active),
        inferences=int(counts.sum()),
        mean_power_w=float(joules.sum() / seconds.sum()),
    )


def _over_windows(values: FloatArray, seed: int) -> Estimate:
    """Median with its interval. Windows are the independent units: samples within one are correlated."""
    return paired_medians([[values]], seed=seed)[0]


def _checked(windows: Sequence[Mapping[str, Any]]) -> tuple[FloatArray, FloatArray]:
    """Seconds and joules of the windows, or the reason why they cannot be used."""
    try:
        seconds = np.array([(window["end_ns"] - window["start_ns"]) * NS for window in windows], np.float64)
        joules = np.array([window["joules"] for window in windows], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise RejectedError(f"an energy window is incomplete: {error}") from error
    if not (np.isfinite(seconds).all() and np.isfinite(joules).all() and (seconds > 0).all() and (joules >= 0).all()):
        raise RejectedError("an energy window is empty, negative or not finite")
    for window, duration, energy in zip(windows, seconds, joules, strict=True):
        watts = window.get("mean_power_w")
        if watts is not None and not abs(watts * duration - energy) <= TOLERANCE * energy:
            raise RejectedError(
                f"{watts:.4g} W x {duration:.4g} s = {watts * duration:.4g} J, but the meter counted {energy:.4g} J: "
                f"they differ by more than {TOLERANCE:.0%}"
            )
    return seconds, joules
