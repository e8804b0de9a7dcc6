from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from edgekd.report.gain import distillation_gain, sentence

ROLES = {"teacher": "teacher", "baseline": "baseline", "student": "candidate"}


def variants(**roles: str) -> dict[str, dict[str, Any]]:
    return {name: {"role": role} for name, role in {**ROLES, **roles}.items()}


def test_the_gain_is_paired_by_sample() -> None:
    # 100 pairs: both right 80, student only 12, baseline only 5, neither 3 (Agresti and Min 2005).
    student = np.repeat([1.0, 1.0, 0.0, 0.0], [80, 12, 5, 3])
    alone = np.repeat([1.0, 0.0, 1.0, 0.0], [80, 12, 5, 3])
    found = distillation_gain(variants(), {"student": student, "baseline": alone})
    assert found is not None
    assert found["estimate"] == pytest.approx(7.0)
    d = 7 / 102
    half = stats.norm.ppf(0.975) * math.sqrt(18 - 49 / 102) / 102
    assert found["ci"] == pytest.approx([100 * (d - half), 100 * (d + half)])


@pytest.mark.parametrize(
    ("roles", "missing"),
    [({"baseline": "candidate"}, ""), ({"student": "teacher"}, ""), ({}, "student"), ({}, "baseline")],
)
def test_without_both_there_is_no_gain(roles: dict[str, str], missing: str) -> None:
    scores = {name: None if name == missing else np.ones(5) for name in ROLES}
    assert distillation_gain(variants(**roles), scores) is None
    assert distillation_gain({"student": {"role": "candidate"}}, scores) is None


@pytest.mark.parametrize(
    ("estimate", "ci", "text"),
    [
        (0.42, [0.1, 0.7], "the teacher is worth +0.42 pp [0.10, 0.70] to the student"),
        (-0.42, [-0.7, -0.1], "the teacher is worth -0.42 pp [-0.70, -0.10] to the student"),
        (
            0.1, [-0.2, 0.4],
            "no difference shown between the student with and without a teacher: +0.10 pp [-0.20, 0.40]",
        ),
        (
            0.0, [-0.001, 0.2],
            "no difference shown between the student with and without a teacher: +0.00 pp [0.00, 0.20]",
        ),
    ],
)  # fmt: skip
def test_the_gain_in_words(estimate: float, ci: list[float], text: str) -> None:
    device = {"distillation_gain_pp": {"estimate": estimate, "ci": ci}, "variants": variants()}
    assert sentence(device) == text


def test_several_teachers_are_spoken_of_as_several() -> None:
    several = variants(**{"teacher-b": "teacher"})
    found = {"distillation_gain_pp": {"estimate": 1.0, "ci": [0.5, 1.5]}, "variants": several}
    assert sentence(found) == "the teachers are worth +1.00 pp [0.50, 1.50] to the student"
    found["distillation_gain_pp"] = {"estimate": 0.0, "ci": [-1.0, 1.0]}
    assert "with and without teachers" in str(sentence(found))
    assert sentence({**found, "distillation_gain_pp": None}) is None
