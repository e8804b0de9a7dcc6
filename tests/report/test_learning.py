from __future__ import annotations

from typing import Any

import pytest

from edgekd.report.learning import choice, lessons

from .synthetic import CHOICE, TERMS


def report(*facts: dict[str, Any] | None) -> dict[str, Any]:
    return {"stages": [{"name": f"stage {k}", "facts": of} for k, of in enumerate(facts)]}


def test_a_lesson_holds_curves_and_terms_as_one_table() -> None:
    curves = {"epoch": [1, 2, 3], "train_loss": [3.0, 2.0], "validation": []}
    (found,) = lessons(report(None, {"opset": 18}, {"curves": curves, "terms": TERMS}))
    assert found.stage == "stage 2"
    assert [head for head, _ in found.columns] == [
        "train loss", "labels: loss", "labels: share", "labels: gradient norm", "kd: loss", "kd: share",
        "kd: gradient norm",
    ]  # fmt: skip
    assert list(found.rows) == [
        (1, [3.0, 0.2, 0.1, 0.5, 1.8, 0.9, 4.0]),
        (2, [2.0, 0.1, 0.2, 0.25, 0.4, 0.8, 2.0]),
        (3, [None, 0.1, 0.25, 0.125, 0.3, 0.75, None]),
    ]


def test_epochs_are_counted_where_they_were_not_kept() -> None:
    (found,) = lessons(report({"terms": TERMS}))
    assert (list(found.epochs), found.curves) == ([1, 2, 3], {})


@pytest.mark.parametrize(("norms", "shown"), [([None, 0.0], False), ([0.0, 1e-9], True), ([], False)])
def test_norms_that_a_logarithmic_axis_cannot_show_are_no_plot(norms: list[float | None], shown: bool) -> None:
    (found,) = lessons(report({"terms": {"kd": {"loss": [1, 1], "share": [1, 1], "gradient_norm": norms}}}))
    assert found.has_norms is shown


def test_a_learning_rate_alone_is_no_training_and_a_copied_teacher_is_not_shown_twice() -> None:
    curves = {"epoch": [1], "learning_rate": [0.1]}
    assert lessons(report({"curves": curves}, {"curves": {"epoch": [1], "train_loss": [1.0]}, **CHOICE})) == []


def test_a_choice_has_every_candidate_with_its_trials() -> None:
    found = choice(report({"opset": 18}, CHOICE))
    assert found is not None
    assert found.sentence == "teacher: wide, chosen from 3 by short trials"
    assert found.epochs == (1, 2)
    assert {name: trials for name, (_, trials) in found.rows.items()} == {
        "small": (0.8, None),
        "wide": (0.9, 0.95),
        "deep": (0.91, 0.94),
    }
    assert found.rows["small"][0] == {
        "validation": 0.97, "parameters": None, "macs": None, "calibration_error": None,
    }  # fmt: skip
    assert choice(report({"opset": 18}, None)) is None
