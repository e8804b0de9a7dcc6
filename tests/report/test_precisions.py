from __future__ import annotations

from typing import Any

import pytest

from edgekd.report.precisions import (
    executed,
    float_counterpart,
    is_half,
    is_integer,
    made_from,
    precision_faults,
    stem,
)

NAMES = ["teacher", "teacher-fp16", "student", "student-fp16", "pruned", "pruned-fp16", "int8"]


def known(*names: str, **integers: bool) -> dict[str, dict[str, Any]]:
    """Variants of which nothing is known but their names, then those whose files are known."""
    return {name: {} for name in names} | {name: {"integers": whole} for name, whole in integers.items()}


CHAIN = known(*NAMES)


@pytest.mark.parametrize(
    ("name", "integer"),
    [("int8", True), ("student.int8", True), ("int8-qat", True), ("INT8", True), ("print8", False), ("int80", False)],
)
def test_which_names_claim_integers(name: str, integer: bool) -> None:
    assert is_integer(name, {name: {}}) is integer


@pytest.mark.parametrize("name", ["qat", "mixed", "dynamic", "student"])
def test_a_file_with_integer_layers_claims_integers_whatever_its_name(name: str) -> None:
    for known in (True, False):
        assert is_integer(name, {name: {"integers": known}}) is known
    assert is_integer("int8", {"int8": {"integers": False}})


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("student-fp16", True),
        ("a.FP16", True),
        ("fp16", True),
        ("student-bf16", True),
        ("bfp16", False),
        ("fp160", False),
    ],
)
def test_which_names_claim_16_bits(name: str, half: bool) -> None:
    assert is_half(name) is half


def test_the_name_without_its_precision() -> None:
    assert [stem(name) for name in ("student-fp16", "a.int8", "int8", "pruned")] == ["student", "a", "", "pruned"]


def test_what_each_variant_was_made_from() -> None:
    assert {name: made_from(name, CHAIN) for name in CHAIN} == {
        "teacher": None, "teacher-fp16": "teacher", "student": "teacher", "student-fp16": "student",
        "pruned": "student", "pruned-fp16": "pruned", "int8": "pruned",
    }  # fmt: skip


def test_the_float_counterpart_of_an_integer_variant() -> None:
    chain = known("teacher", "student", "pruned", "int8", qat=True, dynamic=True)
    assert {name: float_counterpart(name, chain, pipeline=True) for name in chain} == {
        "teacher": None, "student": None, "pruned": None, "int8": "pruned", "qat": "pruned", "dynamic": "pruned",
    }  # fmt: skip
    assert made_from("dynamic", chain) == "pruned"
    assert float_counterpart("a.int8", known("a", "b", "a.int8"), pipeline=False) == "a"
    assert float_counterpart("c.int8", known("a", "c.int8"), pipeline=False) is None


def test_the_float_counterpart_of_a_half_and_past_one() -> None:
    assert float_counterpart("pruned-fp16", CHAIN, pipeline=True) == "pruned"
    assert float_counterpart("int8", CHAIN, pipeline=True) == "pruned"
    assert float_counterpart("b-fp16", known("a", "b-fp16"), pipeline=False) is None
    assert float_counterpart("x-fp16", known("a", "x-fp16"), pipeline=True) == "a"


def variant(**changes: Any) -> dict[str, Any]:
    return {"precision": None, "speedup": 2.0, "no_difference": False, "float_counterpart": None, **changes}


def pair(faster: str, slower: str, ratio: float) -> dict[str, Any]:
    return {"faster": faster, "slower": slower, "ratio": ratio, "no_difference": False}


def test_int8_slower_than_the_half_is_said_too() -> None:
    variants = {
        "pruned": variant(),
        "pruned-fp16": variant(float_counterpart="pruned"),
        "int8": variant(float_counterpart="pruned", precision={"int8": 9}),
    }
    comparisons = [pair("int8", "pruned", 1.5), pair("pruned-fp16", "int8", 1.25), pair("pruned-fp16", "pruned", 1.9)]
    device = {"variants": variants, "comparisons": comparisons}
    assert precision_faults("int8", device) == ["slower than pruned-fp16: 0.80x"]
    assert precision_faults("pruned-fp16", device) == precision_faults("pruned", device) == []


def test_a_half_may_be_slower_than_its_float_or_no_half() -> None:
    variants = {
        "teacher": variant(speedup=1.0),
        "teacher-fp16": variant(speedup=0.5, float_counterpart="teacher", precision={"float32": 4}),
        "b": variant(),
        "b-fp16": variant(float_counterpart="b", precision={"float16": 4}),
    }
    device = {"variants": variants, "comparisons": [pair("b", "b-fp16", 2.0)]}
    assert precision_faults("b-fp16", device) == ["slower than its float b: 0.50x"]
    assert precision_faults("teacher-fp16", device) == [
        "does not run in 16 bits on this device (computing layers: 4 float32)",
        "slower than its float teacher: 0.50x",
    ]


def test_the_precision_that_ran_in_words() -> None:
    assert executed({"float32": 2, "int8": 9}) == "computing layers: 9 int8, 2 float32"
