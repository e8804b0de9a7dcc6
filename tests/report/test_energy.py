from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.report.energy import RejectedError, energy_from_samples, energy_per_inference

from .synthetic import energy_windows

S = 1_000_000_000


def sampled(seed: int, n: int = 200, period: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Power samples with jittered time stamps."""
    rng = np.random.default_rng(seed)
    return np.arange(n) * period + rng.uniform(-0.3, 0.3, n) * period, rng.uniform(2, 15, n)


@given(st.floats(0.01, 500), st.floats(0.5, 4), st.floats(5, 15), st.integers(0, 100))
def test_constant_power_is_exact(watts: float, start: float, seconds: float, seed: int) -> None:
    times, _ = sampled(seed)
    found = energy_from_samples(times, np.full(200, watts), start, start + seconds, period_s=0.1)
    assert found == pytest.approx(watts * seconds, rel=1e-9)


@given(st.floats(-0.5, 3), st.floats(0, 10), st.integers(0, 100))
def test_a_ramp_is_exact(slope: float, offset: float, seed: int) -> None:
    times, _ = sampled(seed)
    found = energy_from_samples(times, offset + slope * times, 1.0, 16.0, period_s=0.1)
    assert found == pytest.approx(offset * 15 + slope * (16**2 - 1) / 2, rel=1e-9, abs=1e-9)


@given(st.floats(5, 12), st.integers(0, 100))
def test_windows_add_up(middle: float, seed: int) -> None:
    times, watts = sampled(seed)
    whole = energy_from_samples(times, watts, 1.0, 17.0, period_s=0.1)
    parts = [energy_from_samples(times, watts, a, b, period_s=0.1) for a, b in ((1.0, middle), (middle, 17.0))]
    assert sum(parts) == pytest.approx(whole, rel=1e-9)


@given(st.floats(-1e4, 1e4), st.integers(0, 100))
def test_the_clocks_zero_does_not_matter(shift: float, seed: int) -> None:
    times, watts = sampled(seed)
    here = energy_from_samples(times, watts, 1.0, 17.0, period_s=0.1)
    there = energy_from_samples(times + shift, watts, 1.0 + shift, 17.0 + shift, period_s=0.1)
    assert there == pytest.approx(here, rel=1e-6)


@given(st.integers(0, 100), st.floats(0.1, 10))
def test_energy_lies_between_least_and_most_power(seed: int, factor: float) -> None:
    times, watts = sampled(seed)
    joules = energy_from_samples(times, watts, 2.0, 12.0, period_s=0.1)
    assert watts.min() * 10 <= joules <= watts.max() * 10
    assert energy_from_samples(times, watts * factor, 2.0, 12.0, period_s=0.1) == pytest.approx(joules * factor)


def test_what_makes_samples_unusable() -> None:
    times, watts = np.arange(100) * 0.1, np.ones(100)

    def reason(times: Any, watts: Any, start: float = 1.0, end: float = 9.0) -> str:
        with pytest.raises(RejectedError) as caught:
            energy_from_samples(times, watts, start, end, period_s=0.1)
        return str(caught.value)

    assert "not finite" in reason(times, np.where(times == times[40], np.nan, watts))
    assert "do not increase" in reason(np.where(times == times[40], times[39], times), watts)
    gap = np.r_[0:40, 43:100]
    assert "a gap of 0.4 s" in reason(times[gap], watts[gap])
    assert "do not cover" in reason(times, watts, 1.0, 10.5)
    assert "do not cover" in reason(times, watts, -0.1, 9.0)
    assert "do not cover" in reason(times, watts, 5.0, 5.0)
    assert "at least 20" in reason(times, watts, 1.0, 2.0)


def test_a_gap_outside_the_window_does_not_matter() -> None:
    keep = np.r_[0:5, 30:100]
    times, watts = (np.arange(100) * 0.1)[keep], np.ones(75)
    assert energy_from_samples(times, watts, 4.0, 9.0, period_s=0.1) == pytest.approx(5.0)


def test_counter_windows_give_gross_and_dynamic_energy() -> None:
    windows = energy_windows({"teacher": 0.02}, idle_w=4.0)
    found = energy_per_inference(windows["active"]["teacher"], windows["idle"])
    assert found.gross.value == pytest.approx(0.02)
    assert found.gross.ci == pytest.approx((0.02, 0.02))
    # 10,000 inferences in 30 s: 3 ms each, at an idle power of 4 W.
    assert found.dynamic is not None
    assert found.dynamic.value == pytest.approx(0.02 - 4.0 * 0.003)
    assert found.mean_power_w == pytest.approx(0.02 * 10_000 / 30)
    assert (found.windows, found.inferences) == (5, 50_000)


def test_headline_is_the_median_window_and_the_interval_their_range() -> None:
    joules = [1.0, 1.1, 1.2, 1.3, 9.0]
    active = [{"start_ns": 0, "end_ns": S, "joules": j, "inferences": 1} for j in joules]
    found = energy_per_inference(active, [])
    assert (found.gross.value, found.gross.ci, found.dynamic) == (1.2, (1.0, 9.0), None)
    assert (found.low, found.high) == (1.0, 9.0)


def test_dynamic_energy_may_be_negative() -> None:
    active = [{"start_ns": 0, "end_ns": S, "joules": 3.0, "inferences": 10}] * 5
    found = energy_per_inference(active, [{"start_ns": 0, "end_ns": S, "joules": 4.0}])
    assert found.dynamic is not None
    assert found.dynamic.value == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("watts", "accepted"), [(10.0, True), (10.09, True), (9.91, True), (10.2, False), (9.8, False)]
)
def test_watts_times_seconds_must_be_the_joules(watts: float, accepted: bool) -> None:
    active = [{"start_ns": 0, "end_ns": 2 * S, "joules": 20.0, "inferences": 10, "mean_power_w": watts}] * 5
    if accepted:
        assert energy_per_inference(active, []).gross.value == 2.0
    else:
        with pytest.raises(RejectedError, match="differ by more than 1%"):
            energy_per_inference(active, [])


@pytest.mark.parametrize(
    "window",
    [
        {"start_ns": 0, "end_ns": S, "joules": float("nan"), "inferences": 1},
        {"start_ns": S, "end_ns": S, "joules": 1.0, "inferences": 1},
        {"start_ns": 0, "end_ns": S, "joules": -1.0, "inferences": 1},
        {"start_ns": 0, "end_ns": S, "joules": 1.0, "inferences": 0},
        {"start_ns": 0, "joules": 1.0, "inferences": 1},
        {"start_ns": 0, "end_ns": S, "joules": None, "inferences": 1},
    ],
)
def test_an_unusable_window_is_refused(window: dict[str, Any]) -> None:
    with pytest.raises(RejectedError):
        energy_per_inference([window], [])


def test_no_window_is_no_measurement() -> None:
    with pytest.raises(RejectedError, match="no active window"):
        energy_per_inference([], [])
