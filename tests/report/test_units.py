from __future__ import annotations

import pytest

from edgekd.report import units


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (871, "871 ns"),
        (38_249, "38.2 µs"),
        (999_600, "1.00 ms"),
        (999_400, "999 µs"),
        (1_240_000, "1.24 ms"),
        (2.1e9, "2.10 s"),
    ],
)
def test_durations(ns: float, text: str) -> None:
    assert units.duration(ns) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.5, "1234"), (0.012344, "0.0123"), (9.996, "10.0"), (-2.345, "-2.35"), (0.5, "0.500")],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert units.number(value) in (text, text.replace("2.35", "2.34"))  # -2.345 is a hair above in binary


@pytest.mark.parametrize(("count", "text"), [(812, "812 B"), (45_120, "45.1 kB"), (2_143_272, "2.14 MB"), (0, "0 B")])
def test_sizes_are_decimal(count: int, text: str) -> None:
    assert units.size(count) == text


def test_other_quantities() -> None:
    assert (units.quantity(41_200_000), units.quantity(999)) == ("41.2 M", "999")
    assert (units.energy(0.00341), units.energy(8.7e-5)) == ("3.41 mJ", "87.0 µJ")
    assert (units.percent(0.98612), units.interval((0.1, 0.2), 100, 1)) == ("98.61 %", "[10.0, 20.0]")
    assert [units.times(x) for x in (0.85, 5.314, 33.33, 1234.0)] == ["0.85x", "5.31x", "33.3x", "1234x"]
