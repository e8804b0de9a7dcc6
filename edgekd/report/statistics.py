"""The statistics of a report: plain functions of arrays, seeded where they resample.

Accuracy is a proportion of independent samples; latency is a few fresh processes of many rounds each, in which all
variants took their turn, so speeds are compared round by round (paired) and the processes are the outer unit of doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Interval = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES = 2000
UNSTABLE = 0.10  # as perf_analyzer's rule: windows that differ by more than 10 % are not one latency
_BLOCKS = 1000  # per process: beyond it, neighbouring rounds are resampled as one
_CHUNK = 1_000_000  # elements held at once while resampling: tens of megabytes


def wilson_interval(successes: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a proportion (Wilson 1927).

    centre = (p + z²/2n) / (1 + z²/n), half width = z / (1 + z²/n) · sqrt(p(1-p)/n + z²/4n²).
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    denominator = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / denominator
    half = z / denominator * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At 0 and n the bound is exactly 0 and 1; floating point leaves a few ulp.
    return (0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half))


def mean_interval(scores: FloatArray, confidence: float = CONFIDENCE, *, seed: int = 0) -> Interval:
    """Interval of the mean of per-sample scores [N] in [0, 1]: Wilson when all are 0 or 1, else a bootstrap."""
    if is_binary(scores):
        return wilson_interval(float(scores.sum()), len(scores), confidence)
    return _bootstrap_mean(scores, confidence, seed)


def paired_difference_interval(
    reference: FloatArray, variant: FloatArray, confidence: float = CONFIDENCE, *, seed: int = 0
) -> Interval:
    """Interval of mean(reference - variant) over the same samples [N]: how much the variant lost.

    Scores of 0 and 1: adjusted Wald for matched pairs (Agresti & Min 2005), half a sample added to each of the four
    cells: with b = reference right and variant wrong + 1/2, c = the reverse + 1/2, n = N + 2:
    d = (b-c)/n, half width = z · sqrt((b+c) - (b-c)²/n) / n. Other scores: bootstrap of the paired differences.
    """
    if reference.shape != variant.shape:
        raise ValueError(f"scores of {len(reference)} and {len(variant)} samples are not paired")
    if not (is_binary(reference) and is_binary(variant)):
        return _bootstrap_mean(reference - variant, confidence, seed)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    lost = float(np.sum(reference > variant)) + 0.5
    won = float(np.sum(variant > reference)) + 0.5
    n = len(reference) + 2
    centre = (lost - won) / n
    half = z * math.sqrt((lost + won) - (lost - won) ** 2 / n) / n
    return max(-1.0, centre - half), min(1.0, centre + half)


def is_binary(scores: FloatArray) -> bool:
    """Whether every score is 0 or 1 (right or wrong)."""
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _bootstrap_mean(values: FloatArray, confidence: float, seed: int) -> Interval:
    if len(values) == 0:
        raise ValueError("no scores")
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(values))
    means = [
        values[rng.integers(len(values), size=(min(step, RESAMPLES - done), len(values)))].mean(axis=1)
        for done in range(0, RESAMPLES, step)
    ]
    return _central(np.concatenate(means), confidence)


def _central(resampled: FloatArray, confidence: float = CONFIDENCE) -> Interval:
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def t_interval(values: FloatArray, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the mean of a few independent values [n], n >= 2: mean ± t·s/√n (Student 1908).

    A bootstrap of five values is less than two thirds as wide as it must be; the tails of the t distribution pay for a
    spread that is itself hardly known.
    """
    n = len(values)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    half = student_t(n - 1, confidence) * spread / math.sqrt(n)
    return mean - half, mean + half


def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t that Student's distribution with `freedom` degrees of freedom exceeds in size with 1 - confidence."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """P(|T| < t), in closed form for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(1, (freedom - odd) // 2 + 1):
        total += term
        term *= cosine * cosine * (2 * k - 1 + odd) / (2 * k + odd)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def percentiles(values: NDArray[np.int64] | FloatArray, at: Sequence[float] = (50, 90, 99)) -> tuple[float, ...]:
    """Percentiles by linear interpolation of the order statistics (type 7 of Hyndman & Fan 1996)."""
    return tuple(float(value) for value in np.percentile(values, at))


@dataclass(frozen=True)
class LatencySummary:
    """Latency of one variant over all processes and rounds, nothing removed; times in nanoseconds.

    Args:
        rounds_iqr: Interquartile range of the rounds' medians, relative to p50: how much the machine wandered.
        processes_range: Largest minus smallest median of a process, relative to p50.
        unstable: One of the two exceeds 10 %. The absolute latency is then a mixture of machine states; the paired
            speed-up does not suffer, because every round compares the variants in the same state.
    """

    p50: float
    p90: float
    p99: float
    mean: float
    min: int
    n: int
    rounds: int
    rounds_iqr: float
    processes_range: float
    unstable: bool


def summarise_latency(processes: Sequence[NDArray[np.int64]]) -> LatencySummary:
    """Summarise one variant's latencies, an array [rounds, calls] in nanoseconds per process."""
    calls = np.concatenate([process.ravel() for process in processes])
    p50, p90, p99 = percentiles(calls)
    low, high = percentiles(np.concatenate(round_medians(processes)), (25, 75))
    by_process = [float(np.median(process)) for process in processes]
    iqr, spread = (high - low) / p50, (max(by_process) - min(by_process)) / p50
    return LatencySummary(
        p50=p50,
        p90=p90,
        p99=p99,
        mean=float(calls.mean()),
        min=int(calls.min()),
        n=calls.size,
        rounds=sum(len(process) for process in processes),
        rounds_iqr=iqr,
        processes_range=spread,
        unstable=max(iqr, spread) > UNSTABLE,
    )


def round_medians(processes: Sequence[NDArray[np.int64]]) -> list[FloatArray]:
    """The p50 of every round [rounds], one array per process."""
    return [np.median(process, axis=1).astype(np.float64) for process in processes]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    ci: Interval


def paired_medians(columns: Sequence[Sequence[FloatArray]], *, seed: int = 0) -> list[Estimate]:
    """Medians over all rounds of quantities known per round, with intervals over processes, then rounds.

    Args:
        columns: Per quantity, per process: its value in each round [rounds]. All quantities share the rounds (for
            example the latency ratio of several variants), and are resampled together.
        seed: Of the resampling.

    The hierarchical bootstrap draws processes with replacement, then rounds of each drawn process with replacement
    (2000 resamples, percentile interval). With five processes the outer draw knows only five points: in simulation a
    nominal 95 % interval covers 88 to 90 % when the processes differ much more than their rounds, and 97 to 99 % when
    they do not. Of more than 1000 rounds in a process, neighbours are resampled as one.
    """
    estimates = [float(np.median(np.concatenate(list(column)))) for column in columns]
    blocks = [[_blocks(process) for process in column] for column in columns]
    sizes = [len(process) for process in blocks[0]]
    values = np.column_stack([np.concatenate(column) for column in blocks])
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, axis=0)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(values))
    resampled = []
    for done in range(0, RESAMPLES, step):
        counts = _hierarchical_counts(rng, sizes, min(step, RESAMPLES - done))
        resampled.append([_weighted_medians(ordered[:, k], counts[order[:, k]]) for k in range(len(columns))])
    intervals = [_central(medians) for medians in np.concatenate(resampled, axis=1)]
    return [Estimate(m, (min(low, m), max(high, m))) for m, (low, high) in zip(estimates, intervals, strict=True)]


def _blocks(rounds: FloatArray) -> FloatArray:
    """At most 1000 values: the medians of equally many neighbouring rounds (which share the machine's state)."""
    if len(rounds) <= _BLOCKS:
        return rounds
    return np.array([np.median(block) for block in np.array_split(rounds, _BLOCKS)])


def _hierarchical_counts(rng: np.random.Generator, sizes: Sequence[int], resamples: int) -> NDArray[np.int32]:
    """How often each round appears in each of the resamples: [sum of sizes, resamples]."""
    drawn = rng.integers(len(sizes), size=(resamples, len(sizes)))
    counts = []
    for process, size in enumerate(sizes):
        draws = (drawn == process).sum(axis=1) * size  # rounds to draw from this process, per resample
        rows = np.repeat(np.arange(resamples), draws)
        cells = rng.integers(size, size=len(rows)) * resamples + rows
        counts.append(np.bincount(cells, minlength=size * resamples).reshape(size, resamples).astype(np.int32))
    return np.concatenate(counts)


def _weighted_medians(ordered: FloatArray, counts: NDArray[np.int32]) -> FloatArray:
    """Medians [resamples] of `ordered` [rounds], ascending, each taken `counts` [rounds, resamples] times."""
    cumulative = np.cumsum(counts, axis=0, dtype=np.int32)
    total = cumulative[-1]
    lower = (cumulative <= (total - 1) // 2).sum(axis=0)
    upper = (cumulative <= total // 2).sum(axis=0)
    return np.asarray((ordered[lower] + ordered[upper]) / 2, np.float64)


def ratios(reference: Sequence[FloatArray], variant: Sequence[FloatArray]) -> list[FloatArray]:
    """Reference / variant of every round, per process."""
    return [a / b for a, b in zip(reference, variant, strict=True)]


def noise_floor(control: Estimate) -> float:
    """The relative difference below which this run cannot tell two models apart.

    The A/A control times one model twice; its ratio should be 1. The floor is the furthest its interval reaches from
    1, in either direction: exp(max |ln bound|) - 1.
    """
    return math.expm1(max(abs(math.log(bound)) for bound in control.ci))


def is_no_difference(ratio: Estimate, floor: float | None) -> bool:
    """Whether a speed ratio is to be called no difference: within the noise floor, or its interval contains 1."""
    low, high = ratio.ci
    return low <= 1.0 <= high or (floor is not None and abs(math.log(ratio.value)) <= math.log1p(floor))
