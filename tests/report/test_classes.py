from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgekd.report import build
from edgekd.report.classes import by_class, fallen, table

from .synthetic import CHAIN, INT8

Make = Callable[..., Path]
LABELS = ("cat", "dog", "bird")


def variant(*right: int | None, n: int = 10, labels: tuple[str, ...] = LABELS) -> dict[str, Any]:
    """A variant that recognized so many of the n samples of each class; None: the class has no samples."""
    recall = [None if hits is None else hits / n for hits in right]
    return {"by_class": {"labels": list(labels), "n": [0 if hits is None else n for hits in right], "recall": recall}}


@given(st.integers(1, 6), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_recall_is_the_share_of_a_classes_samples(classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets, scores = rng.integers(0, classes, n), rng.integers(0, 2, n).astype(float)
    labels = [f"class {k}" for k in range(classes)]
    found = by_class(scores, targets, labels)
    assert found is not None
    assert found["labels"] == labels
    for k in range(classes):
        mine = scores[targets == k]
        assert found["n"][k] == len(mine)
        assert found["recall"][k] == (pytest.approx(mine.mean()) if len(mine) else None)


@pytest.mark.parametrize(
    ("scores", "targets", "labels"),
    [
        (None, np.array([0, 1]), LABELS),
        (np.ones(2), None, LABELS),
        (np.ones(2), np.array([0, 1]), ()),
        (np.array([0.5, 1.0]), np.array([0, 1]), LABELS),
        (np.ones(2), np.array([0.0, 1.0]), LABELS),
        (np.ones(2), np.array([[0], [1]]), LABELS),
        (np.ones(2), np.array([0, 3]), LABELS),
        (np.ones(2), np.array([-1, 0]), LABELS),
        (np.ones(0), np.array([], np.int64), LABELS),
    ],
    ids=["no scores", "no labels", "no names", "graded", "real", "several", "too large", "negative", "empty"],
)
def test_where_targets_are_no_classes_there_is_no_recall(scores: Any, targets: Any, labels: Any) -> None:
    assert by_class(scores, targets, labels) is None


def test_a_fall_of_exactly_20_pp_is_not_more_than_20_pp() -> None:
    # 0.9 - 0.7 is more than 0.2 in floating point.
    assert fallen({"teacher": variant(9, 9, 9), "student": variant(7, 9, 9)}, "teacher") is None
    assert fallen({"teacher": variant(9, 9, 9), "student": variant(6, 9, 9)}, "teacher") is not None


def test_fallen_classes_are_named_the_worst_first() -> None:
    variants = {
        "teacher": variant(10, 10, None),
        "student": variant(7, 10, None),
        "int8": variant(6, 1, None),
        "broken": {"by_class": None},
    }
    assert fallen(variants, "teacher") == (
        "recall of a class falls by more than 20 pp against teacher: "
        "dog (int8 90.0 pp), cat (int8 40.0 pp, student 30.0 pp)"
    )


def test_many_fallen_classes_are_counted() -> None:
    labels = tuple("abcdefg")
    variants = {"teacher": variant(*[10] * 7, labels=labels), "student": variant(*range(7), labels=labels)}
    text = fallen(variants, "teacher")
    assert text is not None
    assert text.endswith("a (student 100.0 pp), b (student 90.0 pp), c (student 80.0 pp), d (student 70.0 pp), "
                         "e (student 60.0 pp) and 2 more")  # fmt: skip


@pytest.mark.parametrize("reference", [None, "elsewhere", "student"])
def test_without_a_reference_nothing_falls(reference: str | None) -> None:
    variants = {"student": {"by_class": None}, "int8": variant(0, 0, 0)}
    assert fallen(variants, reference) is None
    shown = table({"variants": variants}, reference)
    assert shown is not None
    assert shown.variants == ("int8",)
    assert not any(cell.worst or cell.change_pp for _, _, cells in shown.rows for cell in cells)


def test_the_table_has_wilsons_intervals_and_marks_the_largest_fall() -> None:
    variants = {"teacher": variant(9, 8, None), "better": variant(10, 9, None), "worse": variant(7, 6, None)}
    found = table({"variants": variants}, "teacher")
    assert found is not None
    assert [label for label, _, _ in found.rows] == list(LABELS)
    cells = {(label, name): cell for label, _, row in found.rows
             for name, cell in zip(found.variants, row, strict=True)}  # fmt: skip
    expected = stats.binomtest(7, 10).proportion_ci(method="wilson")
    assert cells["cat", "worse"].ci == pytest.approx((expected.low, expected.high))
    assert cells["cat", "worse"].change_pp == pytest.approx(-20)
    assert [key for key, cell in cells.items() if cell.worst] == [("cat", "worse")]  # the first of equals
    assert (cells["bird", "worse"].recall, cells["bird", "worse"].ci) == (None, None)


def test_of_very_many_classes_those_that_lost_most_are_shown() -> None:
    labels = tuple(f"class {k}" for k in range(250))
    after = [10] * 250
    after[240], after[3] = 2, 5
    variants = {"teacher": variant(*[10] * 250, labels=labels), "student": variant(*after, labels=labels)}
    found = table({"variants": variants}, "teacher")
    assert found is not None
    assert (len(found.rows), found.total) == (100, 250)
    assert [label for label, _, _ in found.rows[:3]] == ["class 240", "class 3", "class 0"]


def test_no_classes_no_table() -> None:
    assert table({"variants": {"student": {"by_class": None}}}, None) is None


def test_recall_by_class_is_that_of_the_outputs(make_run: Make) -> None:
    lost = replace(INT8, wrong={"test": list(range(3, 300, 10)), "validation": 0})
    run = make_run({**CHAIN, "int8": lost})
    device = build.build(run)["devices"]["cpu"]
    # Of 1000 samples every tenth is a 3; the first 30 of those are missed. The teacher misses the first ten samples.
    found = device["variants"]["int8"]["by_class"]
    assert found["labels"] == [f"digit {k}" for k in range(10)]
    assert found["n"] == [100] * 10
    assert found["recall"] == [1.0, 1.0, 1.0, 0.7, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert device["variants"]["teacher"]["by_class"]["recall"] == [0.99] * 10
    assert "by_class" not in device["variants"]["int8"]["validation"]
    fallen = "recall of a class falls by more than 20 pp against teacher: digit 3 (int8 29.0 pp)"
    assert fallen in device["verdict"]["remarks"]


@pytest.mark.parametrize("data", [None, {"classes": []}, {}], ids=["no data", "no classes", "unknown"])
def test_without_class_names_there_is_no_recall_by_class(make_run: Make, data: dict[str, Any] | None) -> None:
    report = build.build(make_run(rounds=5, run={"provenance": {"data": data}}))
    assert report["devices"]["cpu"]["variants"]["int8"]["by_class"] is None
