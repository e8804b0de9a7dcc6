"""What the comparison with the reference says: answers within tolerance, and what was lost in accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgekd.report.statistics import CONFIDENCE, mean_interval, paired_difference_interval
from edgekd.report.units import interval, percent
from edgekd.validation.checks import Check, Status, judged
from edgekd.validation.tally import Tally
from edgekd.validation.tolerance import Limits

FEWEST = 100
"""Samples below which no drop is judged."""
_FIND = "edgekd validate ... --bisect names the first node that departs; "
_REMEDIES = {
    "parity-max": _FIND + "compare preprocessing, weights and the exporter's options",
    "parity-mean": _FIND + "compare preprocessing, weights and the exporter's options",
    "parity-sqnr": _FIND + "for integers, calibrate on real inputs and look at edgekd explain",
    "parity-cosine": _FIND + "answers that point elsewhere come from other weights or swapped channels",
    "parity-top1": _FIND + "if the order of the classes was changed, this is where it shows",
}


def parity(tallies: Mapping[str, Tally], limits: Limits | None, *, random: bool) -> Iterator[Check]:
    """Yield how far each output is from the reference's.

    Args:
        limits: None where nothing is limited: another network, or the user's wish. The figures are told all the same.
        random: whether inputs are random numbers, for which nobody knows how clear an answer has to be.
    """
    chosen = limits or Limits()
    why = "the reference is another network, or no tolerance is wanted: a figure without a limit"
    for name, seen in tallies.items():
        if seen.shapes:
            told = f"came out with the shape {seen.shapes}: nothing to compare"
            remedy = "export the output that the reference has"
            yield Check("parity-sqnr", "failed", told, subject=name, limit=chosen.sqnr, remedy=remedy)
            continue
        if seen.nonfinite:
            yield Check("parity-sqnr", "skipped", "answers are not finite: see that check", subject=name)
            continue
        if seen.values:
            yield _most("parity-max", name, seen.max_relative, chosen.max, limits, why,
                        f"largest difference {seen.max_abs:.3g}, of the peak {seen.peak:.3g}")  # fmt: skip
            yield _most("parity-mean", name, seen.mean_relative, chosen.mean, limits, why,
                        f"mean difference {seen.mean_abs:.3g}")  # fmt: skip
            yield _least("parity-sqnr", name, seen.sqnr_db, chosen.sqnr, limits, why, "over all samples", unit="dB")
            yield _least("parity-cosine", name, seen.cosine, chosen.cosine, limits, why, "over all samples")
        if seen.top1 is not None:
            yield _top1(name, seen, chosen.top1, limits, why, random)


def _top1(name: str, seen: Tally, limit: float | None, limits: Limits | None, why: str, random: bool) -> Check:
    assert seen.top1 is not None
    told = f"{seen.agreeing} of {seen.rows} rows"
    if random and limit is not None:
        return Check(
            "parity-top1", "skipped", f"{told}; random inputs have no clear answer: not judged", name, seen.top1
        )
    # One that goes either way in a handful of samples is no evidence.
    allowed = math.ceil((1 - limit) * seen.rows) if limit is not None else 0
    lenient = None if limit is None else min(limit, 1 - allowed / seen.rows)
    return _least("parity-top1", name, seen.top1, lenient, limits, why, told)


def _most(id: str, name: str, value: float, limit: float | None, limits: Limits | None, why: str, told: str) -> Check:
    if limit is None:
        return Check(id, "skipped", f"{told}; {_unlimited(limits, why)}", name, value)
    return judged(id, value <= limit, told, subject=name, value=value, limit=limit, remedy=_REMEDIES[id])


def _least(
    id: str, name: str, value: float, limit: float | None, limits: Limits | None, why: str, told: str, unit: str = ""
) -> Check:
    if limit is None:
        return Check(id, "skipped", f"{told}; {_unlimited(limits, why)}", name, value, unit=unit)
    ok = value >= limit
    return judged(id, ok, told, subject=name, value=value, limit=limit, unit=unit, remedy=_REMEDIES[id])


def _unlimited(limits: Limits | None, why: str) -> str:
    return why if limits is None else "this precision has no limit for it"


Scores = NDArray[np.float64]


def accuracy(reference: Scores | None, model: Scores | None, limit: float | None, missing: str) -> Check:
    """Return what a model lost against the reference, in percentage points of the task's score.

    The limit has to hold for the whole 95 % interval of the paired difference: it passes where the upper end is within
    it, fails where the lower end is beyond it, and is inconclusive between, with how many samples would tell.

    Args:
        reference: score of each sample; None where there are no labels.
        limit: percentage points; None where it is only told.
        missing: why there are no scores.
    """
    if reference is None or model is None or not len(reference):
        remedy = "give inputs with labels: --data RECIPE, an .npz or a folder"
        return Check("accuracy-drop", "not_measured", missing, limit=limit, unit="pp", remedy=remedy)
    drop = 100 * float(reference.mean() - model.mean())
    low, high = (100 * bound for bound in paired_difference_interval(reference, model))
    told = (
        f"{percent(float(reference.mean()))} to {percent(float(model.mean()))} "
        f"{interval(mean_interval(model), 100)} of {len(model)} samples; drop {drop:.2f} pp {interval((low, high))}"
    )
    if limit is None:
        return Check("accuracy-drop", "skipped", f"{told}; no --max-drop-pp: not judged", value=drop, unit="pp")
    status: Status = "passed" if high <= limit else "failed" if low > limit else "inconclusive"
    if len(model) < FEWEST and status == "passed":
        status = "inconclusive"
    remedy = {
        "failed": "quantize with more samples or with training (mode qat), prune less, or distill longer",
        "inconclusive": _how_many(reference - model, drop, limit),
    }.get(status, "")
    return Check("accuracy-drop", status, told, value=drop, limit=limit, unit="pp", remedy=remedy)


def _how_many(differences: Scores, drop: float, limit: float) -> str:
    """Return how many samples would settle it, if they are like these."""
    margin = abs(limit - drop) / 100
    spread = float(differences.std())
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    if margin == 0 or spread == 0:
        return f"give more samples, at least {FEWEST}"
    wanted = max(FEWEST, len(differences) + 1, math.ceil((z * spread / margin) ** 2))
    size = float(f"{wanted:.1e}") if wanted > 1000 else float(math.ceil(wanted / 10) * 10)
    return f"too few samples to tell: about {size:,.0f} like these would; or allow more (--max-drop-pp)"
