"""How good every variant of a device was: its outputs there against the labels, and against the reference's there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.report.evidence import Arrays
from edgekd.report.statistics import FloatArray, mean_interval, paired_difference_interval
from edgekd.tasks import Task

FIGURES = ("accuracy", "accuracy_ci", "agreement_with_teacher", "agreement_ci", "drop_pp", "drop_pp_ci", "samples")
_UNFIT = (ValueError, IndexError, TypeError, KeyError, ArithmeticError)
"""What a task raises on outputs of another shape or kind than its own."""


@dataclass(frozen=True)
class Quality:
    """One variant over one split.

    Args:
        figures: Every one of FIGURES.
        reasons: Why those that are None are missing.
        scores: Of every sample [N]; None where they could not be had.
    """

    figures: dict[str, Any]
    reasons: dict[str, str]
    scores: FloatArray | None = None


def assess(
    outputs: Mapping[str, Arrays | None], targets: NDArray[Any] | None, reference: str | None, task: Task
) -> dict[str, Quality]:
    """Assess every variant over one split.

    Args:
        outputs: Raw outputs by variant, None where the device gave none.
        targets: The labels [N]; None without labels.
        reference: The variant that agreement and drop are taken against.
        task: Scores outputs.
    """
    baseline = outputs.get(reference) if reference is not None else None
    scores = {name: _scores(found, targets, task) for name, found in outputs.items()}
    return {
        name: _assess_one(found, baseline, scores[name], scores.get(reference or ""), task)
        for name, found in outputs.items()
    }


def _scores(outputs: Arrays | None, targets: NDArray[Any] | None, task: Task) -> FloatArray | str:
    """The score of every sample [N], or why there is none."""
    if outputs is None:
        return "the device gave no outputs of it"
    if targets is None:
        return "the run has no labels"
    if count(outputs) != len(targets):
        return f"{count(outputs)} outputs for {len(targets)} labels: they do not belong together"
    return _scored(outputs, targets, task) if len(targets) else "the split is empty"


def _scored(outputs: Arrays, targets: NDArray[Any], task: Task) -> FloatArray | str:
    try:
        scores = np.asarray(task.score(outputs, targets), np.float64)
    except _UNFIT as error:
        return f"the task {task.name} cannot score its outputs: {error}"
    if scores.shape != (len(targets),) or not ((scores >= 0) & (scores <= 1)).all():
        return f"the task {task.name} gave scores that are not one number in [0, 1] per sample"
    return scores


def _assess_one(
    outputs: Arrays | None,
    baseline: Arrays | None,
    scores: FloatArray | str,
    reference_scores: FloatArray | str | None,
    task: Task,
) -> Quality:
    figures: dict[str, Any] = dict.fromkeys(FIGURES)
    reasons: dict[str, str] = {}
    figures["samples"] = None if outputs is None else count(outputs)
    if outputs is None or baseline is None or count(outputs) != count(baseline) or count(outputs) == 0:
        reasons["agreement_with_teacher"] = (
            "the device gave no outputs of it"
            if outputs is None
            else "there are no outputs of a reference to compare with"
        )
    else:
        try:
            agreement = np.asarray(task.agreement(outputs, baseline), np.float64)
        except _UNFIT as error:
            reasons["agreement_with_teacher"] = f"the task {task.name} cannot compare its outputs: {error}"
        else:
            figures["agreement_with_teacher"] = float(agreement.mean())
            figures["agreement_ci"] = list(mean_interval(agreement))
    if isinstance(scores, str):
        return Quality(figures, {**reasons, "accuracy": scores, "drop_pp": scores})
    figures["accuracy"] = math.fsum(scores) / len(scores)
    figures["accuracy_ci"] = list(mean_interval(scores))
    if reference_scores is scores:
        figures |= {"drop_pp": 0.0, "drop_pp_ci": [0.0, 0.0]}
    elif reference_scores is None or isinstance(reference_scores, str):
        reasons["drop_pp"] = "there is no scored reference to compare with"
    else:
        low, high = paired_difference_interval(reference_scores, scores)
        # The sum first: counts of 0/1 scores are exact, so that a limit met exactly is met.
        figures["drop_pp"] = 100 * math.fsum(reference_scores - scores) / len(scores)
        figures["drop_pp_ci"] = [100 * low, 100 * high]
    return Quality(figures, reasons, scores)


def count(outputs: Arrays) -> int:
    """The number of samples (the first axis of the first output)."""
    return len(next(iter(outputs.values()))) if outputs else 0
