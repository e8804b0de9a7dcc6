from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.report import build
from edgekd.report.roles import candidates, chain, several_teachers, tag

from .synthetic import BASELINE, INT8, STUDENT, TEACHER

Make = Callable[..., Path]


def roles(**given: str) -> dict[str, dict[str, Any]]:
    return {name.replace("_", "-"): {"role": role} for name, role in given.items()}


ALL = roles(teacher_a="teacher", teacher_b="teacher", baseline="baseline", student="candidate", int8="candidate")


@pytest.mark.parametrize(
    ("variants", "reference", "expected"),
    [
        (ALL, "teacher-a", ["student", "int8"]),
        (roles(a="candidate", b="candidate"), "a", ["b"]),
        (roles(a="candidate", b="candidate"), None, ["a", "b"]),
        (roles(teacher="teacher"), "teacher", ["teacher"]),
        (roles(a="candidate"), "a", ["a"]),
        (roles(teacher="teacher", other="teacher", baseline="baseline"), "teacher", ["teacher"]),
        (roles(baseline="baseline"), None, []),
    ],
)
def test_candidates_are_neither_teachers_nor_the_baseline(
    variants: dict[str, Any], reference: str | None, expected: list[str]
) -> None:
    assert candidates(variants, reference) == expected


def test_what_is_only_compared_with_says_so() -> None:
    tags = {name: tag(name, variant, "teacher-a") for name, variant in ALL.items()}
    assert tags == {
        "teacher-a": "reference", "teacher-b": "another teacher", "baseline": "without a teacher", "student": "",
        "int8": "",
    }  # fmt: skip
    assert chain(ALL, "teacher-a") == ["teacher-a", "student", "int8"]
    assert (several_teachers(ALL), several_teachers(roles(teacher="teacher", student="candidate"))) == (True, False)


@pytest.mark.parametrize("gates", [{"max_drop_pp": 1.0}, {"max_drop_pp": 0.1}], ids=["passed", "missed"])
def test_neither_another_teacher_nor_the_baseline_is_recommended_or_best(make_run: Make, gates: dict[str, Any]) -> None:
    perfect: dict[str, Any] = {"latency_us": 1.0, "wrong": {"test": 0, "validation": 0}, "size": 1}
    variants = {
        "teacher-a": replace(TEACHER, role="teacher"),
        "teacher-b": replace(TEACHER, role="teacher", **perfect),
        "baseline": replace(BASELINE, **perfect),
        "student": STUDENT,
    }
    verdict = build.build(make_run(variants, reference="teacher-a", gates=gates, rounds=5))["devices"]["cpu"]["verdict"]
    assert [candidate["name"] for candidate in verdict["candidates"]] == ["student"]
    assert verdict["best"] == "student"
    assert verdict["recommended"] == ("student" if verdict["status"] == "passed" else None)


def test_the_teacher_is_worth_what_the_student_has_above_the_baseline(make_run: Make) -> None:
    run = make_run({"teacher": TEACHER, "baseline": BASELINE, "student": STUDENT, "int8": INT8})
    device = build.build(run)["devices"]["cpu"]
    assert [variant["role"] for variant in device["variants"].values()] == [
        "candidate", "baseline", "candidate", "candidate",
    ]  # fmt: skip
    gain = device["distillation_gain_pp"]
    assert gain["estimate"] == pytest.approx(0.8)  # 12 against 20 of 1000 wrong
    assert gain["ci"][0] < 0.8 < gain["ci"][1]
    assert device["verdict"]["recommended"] == "int8"
    assert build.build(make_run(name="without"))["devices"]["cpu"]["distillation_gain_pp"] is None


def test_int8_is_compared_with_the_candidate_before_it(make_run: Make) -> None:
    variants = {"teacher": TEACHER, "student": STUDENT, "baseline": BASELINE, "int8": INT8}
    found = build.build(make_run(variants, rounds=5))["devices"]["cpu"]["variants"]
    assert found["int8"]["float_counterpart"] == "student"
