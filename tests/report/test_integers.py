from __future__ import annotations

import pytest

from edgekd.report.integers import executed, float_counterpart, is_integer


@pytest.mark.parametrize(
    ("name", "integer"),
    [("int8", True), ("student.int8", True), ("int8-qat", True), ("INT8", True), ("print8", False), ("int80", False)],
)
def test_which_names_claim_integers(name: str, integer: bool) -> None:
    assert is_integer(name) is integer


def test_the_float_counterpart_of_an_integer_variant() -> None:
    names = ["teacher", "student", "pruned", "int8"]
    assert float_counterpart("int8", names, pipeline=True) == "pruned"
    assert float_counterpart("pruned", names, pipeline=True) is None
    assert float_counterpart("a.int8", ["a", "b", "a.int8"], pipeline=False) == "a"
    assert float_counterpart("c.int8", ["a", "c.int8"], pipeline=False) is None


def test_the_precision_that_ran_in_words() -> None:
    assert executed({"float32": 2, "int8": 9}) == "computing layers: 9 int8, 2 float32"
