from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.report.integration import Readings, RejectedError, Window, joules_between, judge, polygon_means

from .meters import S, counter


def ns(seconds: float) -> int:
    return round(seconds * S)


def sampled(seed: int, n: int = 200, period: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Power samples with jittered time stamps: seconds and watts."""
    rng = np.random.default_rng(seed)
    return np.arange(n) * period + rng.uniform(-0.3, 0.3, n) * period, rng.uniform(2, 15, n)


def power(times: np.ndarray, watts: np.ndarray, period: float = 0.1) -> Readings:
    return Readings(np.round(times * S).astype(np.int64), watts[:, None], {"VDD_IN": "power"}, ("VDD_IN",), period)


def joules(readings: Readings, start: float, end: float) -> float:
    return joules_between(readings, ns(start), ns(end))


@given(st.floats(0.01, 500), st.floats(0.5, 4), st.floats(5, 15), st.integers(0, 100))
def test_constant_power_is_exact(watts: float, start: float, seconds: float, seed: int) -> None:
    times, _ = sampled(seed)
    lasted = (ns(start + seconds) - ns(start)) / S
    assert joules(power(times, np.full(200, watts)), start, start + seconds) == pytest.approx(watts * lasted, rel=1e-12)


@given(st.floats(-0.5, 3), st.floats(9, 20), st.integers(0, 100))
def test_a_ramp_is_exact(slope: float, offset: float, seed: int) -> None:
    times, _ = sampled(seed)
    times = np.round(times * S) / S
    found = joules(power(times, offset + slope * times), 1.0, 16.0)
    assert found == pytest.approx(offset * 15 + slope * (16**2 - 1) / 2, rel=1e-9)


@given(st.floats(5, 12), st.integers(0, 100))
def test_windows_add_up(middle: float, seed: int) -> None:
    readings = power(*sampled(seed))
    parts = joules(readings, 1.0, middle) + joules(readings, middle, 17.0)
    assert parts == pytest.approx(joules(readings, 1.0, 17.0), rel=1e-9)


@given(st.integers(-(2**62), 2**62), st.integers(0, 100))
def test_the_clocks_zero_does_not_matter_at_all(shift: int, seed: int) -> None:
    readings = power(*sampled(seed))
    moved = replace(readings, time_ns=readings.time_ns + shift)
    assert joules_between(moved, ns(1) + shift, ns(17) + shift) == joules_between(readings, ns(1), ns(17))


@given(st.integers(0, 100), st.floats(0.1, 10))
def test_energy_lies_between_least_and_most_power(seed: int, factor: float) -> None:
    times, watts = sampled(seed)
    found = joules(power(times, watts), 2.0, 12.0)
    assert watts.min() * 10 <= found <= watts.max() * 10
    assert joules(power(times, watts * factor), 2.0, 12.0) == pytest.approx(found * factor)


@given(st.integers(0, 100), st.floats(1, 8), st.floats(4, 11))
def test_a_counter_gives_what_its_own_power_gives(seed: int, start: float, seconds: float) -> None:
    # Between two readings a counter tells only the mean power; at readings both integrals are exact.
    times, watts = sampled(seed)
    times = np.round(times * S) / S
    steps = np.diff(times) * (watts[1:] + watts[:-1]) / 2
    by_counter = counter(times, np.concatenate([[0.0], np.cumsum(steps)]), 0.1)
    first, last = (int(np.searchsorted(times, moment)) for moment in (start, start + seconds))
    expected = joules_between(power(times, watts), ns(times[first]), ns(times[last]))
    assert joules_between(by_counter, ns(times[first]), ns(times[last])) == pytest.approx(expected, rel=1e-9)


def test_a_counter_is_interpolated_at_the_edges() -> None:
    readings = counter(np.arange(100) * 0.1, np.arange(100) * 0.1 * 7.0, 0.1)
    assert joules(readings, 1.03, 8.97) == pytest.approx(7.0 * (8.97 - 1.03))


def test_rails_are_added_and_may_be_negative_but_their_sum_may_not() -> None:
    times = np.arange(100) * 0.1
    values = np.column_stack([np.full(100, 6.0), np.full(100, -0.4), np.full(100, 99.0)])
    channels: dict[str, Any] = {"VIN_SYS_5V0": "power", "VDD_GPU": "power", "VDDQ": "power"}
    readings = Readings(np.round(times * S).astype(np.int64), values, channels, ("VIN_SYS_5V0", "VDD_GPU"), 0.1)
    assert joules(readings, 1.0, 9.0) == pytest.approx(5.6 * 8)
    with pytest.raises(RejectedError, match=r"the total of a reading is -0\.4 W"):
        joules(replace(readings, total=("VDD_GPU",)), 1.0, 9.0)


def test_a_missing_rail_outside_of_the_total_does_not_matter() -> None:
    values = np.column_stack([np.full(100, 6.0), np.full(100, np.nan)])
    readings = Readings(np.arange(100) * S // 10, values, {"VDD_IN": "power", "VDD_SOC": "power"}, ("VDD_IN",), 0.1)
    assert joules(readings, 1.0, 9.0) == pytest.approx(48.0)


def reason(times: np.ndarray, watts: np.ndarray, start: float = 1.0, end: float = 9.0) -> str:
    with pytest.raises(RejectedError) as caught:
        joules(power(times, watts), start, end)
    return str(caught.value)


def test_what_makes_readings_unusable() -> None:
    times, watts = np.arange(100) * 0.1, np.ones(100)
    for missing in (np.nan, np.inf, 1e300):
        assert "missing or not finite" in reason(times, np.where(times == times[40], missing, watts))
    for nothing in (0.0, -1.0):
        assert "more than 0" in reason(times, np.where(times == times[40], nothing, watts))
    gap = np.r_[0:40, 43:100]
    assert reason(times[gap], watts[gap]) == "a gap of 0.4 s between readings, 2.5 periods are 0.25 s"
    assert "do not cover" in reason(times, watts, 1.0, 10.5)
    assert "do not cover" in reason(times, watts, -0.1, 9.0)
    assert "do not cover" in reason(times, watts, 5.0, 5.0)
    assert "do not cover" in reason(times, watts, 9.0, 1.0)
    assert reason(times, watts, 1.0, 2.0) == "9 readings in it, at least 20 are needed"


def test_what_makes_a_counter_unusable() -> None:
    times = np.arange(100) * 0.1
    with pytest.raises(RejectedError, match="did not move"):
        joules(counter(times, np.full(100, 5.0), 0.1), 1.0, 9.0)
    with pytest.raises(RejectedError, match="goes backwards"):
        joules(counter(times, np.where(times > 5, times - 3, times), 0.1), 1.0, 9.0)


def test_a_gap_outside_of_the_window_does_not_matter() -> None:
    keep = np.r_[0:5, 30:100]
    assert joules(power((np.arange(100) * 0.1)[keep], np.ones(75)), 4.0, 9.0) == pytest.approx(5.0)


WINDOW = Window("active", "student", ns(1), ns(9), 8.0, 100)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"seconds": 8.07}, None),
        ({"seconds": 8.2}, "it lasted 8 s on one clock and 8.2 s on another: they differ by more than 1%"),
        ({"seconds": float("nan")}, "on another"),
        ({"inferences": 0}, "no inference ended in it"),
        ({"rejected": "the device throttled"}, "the device throttled"),
        ({"end_ns": ns(20), "seconds": 19.0}, "the readings do not cover it"),
        ({"end_ns": ns(-1), "seconds": -2.0}, "on another"),
    ],
)
def test_a_window_is_judged(change: dict[str, Any], expected: str | None) -> None:
    judged = judge(power(np.arange(100) * 0.1, np.full(100, 5.0)), replace(WINDOW, **change))
    if expected is None:
        assert (judged.reason, judged.joules, judged.watts) == (None, pytest.approx(40.0), pytest.approx(5.0))
    else:
        assert judged.reason is not None
        assert expected in judged.reason
        assert np.isnan(judged.joules)


@given(st.integers(0, 50), st.integers(2, 40))
def test_means_of_cells_add_up_to_the_whole(seed: int, cells: int) -> None:
    times, watts = sampled(seed)
    edges = np.linspace(1.0, 18.0, cells + 1)
    whole = polygon_means(times, watts, edges[[0, -1]])[0]
    assert polygon_means(times, watts, edges).mean() == pytest.approx(whole)
    assert whole * 17 == pytest.approx(joules(power(times, watts), 1.0, 18.0), rel=1e-6)
