"""How fast every variant of a device was: summaries, paired speed-ups, the noise floor, distributions for plots."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.report.evidence import CONTROL, LatencySamples
from edgekd.report.statistics import (
    Estimate,
    FloatArray,
    is_no_difference,
    noise_floor,
    paired_medians,
    percentiles,
    ratios,
    round_medians,
    summarise_latency,
)

QUANTILES = (*np.arange(0, 98, 2.0).tolist(), 98.0, 99.0, 99.5, 99.9, 100.0)  # percent, for plots

Processes = Sequence[NDArray[np.int64]]


@dataclass(frozen=True)
class Latencies:
    """The latencies of one device.

    Args:
        summaries: By variant, the "latency_ns" of the report.
        speedups: By variant, how many times faster than the reference; empty when no reference was timed beside it.
        noise_floor: The A/A control: its ratio, interval, and the relative difference that counts as none.
        comparisons: Every pair of variants (the reference apart), the faster first.
        distribution: Quantiles by variant, for plots.
        unsteady: Columns whose warm-up did not become steady in time.
        reason: Why nothing was timed, else None.
    """

    summaries: dict[str, dict[str, Any]]
    speedups: dict[str, Estimate]
    noise_floor: dict[str, Any] | None
    comparisons: list[dict[str, Any]]
    distribution: dict[str, Any] | None
    unsteady: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def floor(self) -> float | None:
        """The relative difference that counts as none; None without a control."""
        return self.noise_floor["floor"] if self.noise_floor else None


def not_timed(reason: str) -> Latencies:
    """The latencies of a device on which nothing was timed."""
    return Latencies({}, {}, None, [], None, reason=reason)


def assess(samples: LatencySamples, reference: str | None) -> Latencies:
    """Compute every latency figure of a device from its raw samples."""
    processes = {name: [process[k] for process in samples.processes] for k, name in enumerate(samples.columns)}
    medians = {name: round_medians(of) for name, of in processes.items()}
    names = [name for name in samples.columns if not name.endswith(CONTROL)]
    control = next(
        (name for name in samples.columns if name.removesuffix(CONTROL) in names and name not in names), None
    )
    others = [name for name in names if name != reference]
    pairs = list(itertools.combinations(others, 2))
    quantities: dict[tuple[str, ...], list[FloatArray]] = {("p50", name): medians[name] for name in names}
    quantities |= {("pair", one, other): ratios(medians[other], medians[one]) for one, other in pairs}
    if reference in medians:
        quantities |= {("speedup", name): ratios(medians[reference], medians[name]) for name in others}
    if control:
        quantities["control",] = ratios(medians[control.removesuffix(CONTROL)], medians[control])
    estimates = dict(zip(quantities, paired_medians(list(quantities.values())), strict=True))

    floor = _floor(control, estimates["control",]) if control else None
    speedups = {name: estimates["speedup", name] for name in others if ("speedup", name) in estimates}
    if reference in medians:
        speedups[reference] = Estimate(1.0, (1.0, 1.0))  # by definition
    return Latencies(
        summaries={name: _summary(processes[name], estimates["p50", name]) for name in names},
        speedups=speedups,
        noise_floor=floor,
        comparisons=[_comparison(one, other, estimates["pair", one, other], floor) for one, other in pairs],
        distribution=_distribution({name: processes[name] for name in names}),
        unsteady=samples.unsteady,
    )


def _floor(control: str, ratio: Estimate) -> dict[str, Any]:
    return {
        "control": control,
        "of": control.removesuffix(CONTROL),
        "ratio": ratio.value,
        "ci": list(ratio.ci),
        "floor": noise_floor(ratio),
    }


def _summary(processes: Processes, p50: Estimate) -> dict[str, Any]:
    """One variant's latency; the interval of its p50 is that of the median round, in proportion."""
    summary = summarise_latency(processes)
    return {**asdict(summary), "p50_ci": [summary.p50 * bound / p50.value for bound in p50.ci]}


def _comparison(one: str, other: str, ratio: Estimate, floor: Mapping[str, Any] | None) -> dict[str, Any]:
    """Two variants, the faster first; `ratio` is how much faster `one` is."""
    swap = ratio.value < 1
    low, high = ratio.ci
    return {
        "faster": other if swap else one,
        "slower": one if swap else other,
        "ratio": 1 / ratio.value if swap else ratio.value,
        "ci": [1 / high, 1 / low] if swap else [low, high],
        "no_difference": is_no_difference(ratio, floor["floor"] if floor else None),
    }


def comparison(one: str, other: str, device: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The comparison of two variants in a device's entry of the report, or None where the two were not timed."""
    pairs: Sequence[Mapping[str, Any]] = device["comparisons"]
    return next((pair for pair in pairs if {pair["faster"], pair["slower"]} == {one, other}), None)


def _distribution(processes: Mapping[str, Processes]) -> dict[str, Any]:
    return {
        "probabilities": [q / 100 for q in QUANTILES],
        "latency_ns": {
            name: list(percentiles(np.concatenate([calls.ravel() for calls in of]), QUANTILES))
            for name, of in processes.items()
        },
    }
