"""What the teacher is worth: the student against the same student without a teacher, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgekd.report.roles import BASELINE, CANDIDATE, STUDENT, several_teachers
from edgekd.report.statistics import FloatArray, paired_difference_interval

Variants = Mapping[str, Mapping[str, Any]]


def distillation_gain(variants: Variants, scores: Mapping[str, FloatArray | None]) -> dict[str, Any] | None:
    """Return {"estimate", "ci"} of score(student) - score(baseline) in pp, or None where one of the two is missing.

    Args:
        variants: every one with its "role".
        scores: by variant, of every sample of the test split [N], in the same order for all.
    """
    there = {BASELINE: BASELINE, STUDENT: CANDIDATE}
    if any(name not in variants or variants[name]["role"] != role for name, role in there.items()):
        return None
    return _gain(scores.get(STUDENT), scores.get(BASELINE))


def point_gains(variants: Variants, scores: Mapping[str, FloatArray | None]) -> dict[str, dict[str, Any] | None]:
    """Return the same for the float network of each point of a budget, beside the plainly trained one of its shape."""
    points = dict.fromkeys(variant["point"] for variant in variants.values() if variant.get("point"))
    return {point: _gain(scores.get(point), scores.get(f"{BASELINE}-{point}")) for point in points}


def _gain(taught: FloatArray | None, alone: FloatArray | None) -> dict[str, Any] | None:
    if taught is None or alone is None:
        return None
    low, high = paired_difference_interval(taught, alone)
    return {"estimate": 100 * math.fsum(taught - alone) / len(taught), "ci": [100 * low, 100 * high]}


def sentence(device: Mapping[str, Any]) -> str | None:
    """The gain in words, of this one seed; None where there is none."""
    found = device["distillation_gain_pp"]
    if found is None:
        return None
    low, high = found["ci"]
    value = f"{_rounded(found['estimate']):+.2f} pp [{_rounded(low):.2f}, {_rounded(high):.2f}]"
    several = several_teachers(device["variants"])
    if low <= 0 <= high:
        who = "teachers" if several else "a teacher"
        return f"no difference shown between the student with and without {who}: {value}"
    return f"{'the teachers are' if several else 'the teacher is'} worth {value} to the student"


def _rounded(value: float) -> float:
    return round(value, 2) + 0.0  # + 0.0: never "-0.00"
