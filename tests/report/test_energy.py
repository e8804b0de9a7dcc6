from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgekd.report.energy import Energies, estimate, over_windows
from edgekd.report.integration import Readings, RejectedError, Window

from .meters import Device, ina3221, rounds, sensor
from .synthetic import energy_files


def exact(joules: dict[str, float], **options: Any) -> tuple[Readings, list[Window]]:
    """A counter without any error."""
    content, arrays = energy_files(joules, **options)
    kinds = {channel["name"]: channel["kind"] for channel in content["channels"]}
    readings = Readings(arrays["time_ns"], arrays["values"], kinds, content["total"], content["period_s"])
    return readings, [Window(**window) for window in content["windows"]]


def of(windows: list[Window], variant: str | None) -> list[int]:
    return [index for index, window in enumerate(windows) if window.variant == variant]


def changed(windows: list[Window], which: list[int], **changes: Any) -> list[Window]:
    return [replace(window, **changes) if index in which else window for index, window in enumerate(windows)]


def test_a_counter_gives_gross_and_dynamic_energy_and_the_ratio() -> None:
    found = estimate(*exact({"teacher": 0.02, "student": 0.008}), reference="teacher")
    teacher, student = found.variants["teacher"], found.variants["student"]
    assert teacher.gross.value == pytest.approx(0.02)
    assert teacher.gross.ci == pytest.approx((0.02, 0.02))
    # 10,000 inferences in 30 s: 3 ms each, at an idle power of 4 W.
    assert student.dynamic is not None
    assert student.dynamic.value == pytest.approx(0.008 - 4.0 * 0.003)
    assert not student.dynamic_unclear
    assert (student.windows, student.rejected, student.inferences) == (5, 0, 50_000)
    assert (student.seconds, student.mean_power_w) == (pytest.approx(150), pytest.approx(0.008 * 10_000 / 30))
    assert student.ratio is not None
    assert student.ratio.value == pytest.approx(2.5)
    assert teacher.ratio is not None
    assert teacher.ratio.ci == (1.0, 1.0)
    assert found.idle_power_w == pytest.approx(4.0)
    assert found.reasons == {}


def test_the_order_of_the_windows_does_not_matter() -> None:
    readings, windows = exact({"teacher": 0.02, "student": 0.008})
    assert estimate(readings, windows[::-1], reference="teacher") == estimate(readings, windows, reference="teacher")


def watts_of(values: list[float], idle: tuple[float, ...] = (4.0, 4.0), seconds: float = 30.0) -> Energies:
    """One inference per window; the device draws so many joules in each."""
    windows: list[tuple[str | None, float, float, int]] = [(None, idle[0], seconds, 0)]
    windows += [("a", joules / seconds, seconds, 1) for joules in values]
    device = Device([*windows, (None, idle[1], seconds, 0)])
    return estimate(sensor(device, 0.1), device.described())


def test_the_headline_is_the_median_window_and_its_interval_that_of_students_t() -> None:
    values = [100.0, 110.0, 120.0, 130.0, 190.0]
    found = watts_of(values).variants["a"]
    assert found.gross.value == pytest.approx(120.0)
    assert (found.low, found.high) == (pytest.approx(100.0), pytest.approx(190.0))
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert found.gross.ci == pytest.approx(expected)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_the_interval_contains_the_median(values: list[float]) -> None:
    found = over_windows(np.array(values))
    assert found.ci[0] <= found.value == np.median(values) <= found.ci[1]


def test_dynamic_energy_may_be_negative_and_is_flagged_when_it_may_be_nothing() -> None:
    clear = watts_of([60.0, 60.3, 60.1, 60.2, 60.4]).variants["a"]
    assert clear.dynamic is not None
    assert clear.dynamic.value == pytest.approx(60.2 - 120)
    assert not clear.dynamic_unclear
    unclear = watts_of([119.0, 121.0, 120.5, 119.5, 120.2]).variants["a"]
    assert unclear.dynamic_unclear


def test_idle_power_that_drifts_is_weighted_by_time_and_widens_the_interval() -> None:
    # Idle windows of 4 and 5 W around five active ones of 8 W: in the middle one the device would have idled at 4.5 W.
    found = watts_of([240.0] * 5, idle=(4.0, 5.0)).variants["a"]
    assert found.dynamic is not None
    assert found.dynamic.value == pytest.approx(240 - 4.5 * 30)
    spread = np.array([240 - (4 + k / 6) * 30 for k in range(1, 6)])
    low, high = stats.t.interval(0.95, 4, spread.mean(), stats.sem(spread))
    assert found.dynamic.ci == pytest.approx((low - 1.0 * 30, high + 1.0 * 30))


def test_without_an_idle_window_there_is_no_dynamic_energy() -> None:
    readings, windows = exact({"a": 0.02})
    found = estimate(readings, changed(windows, of(windows, None), rejected="the device throttled"))
    assert found.variants["a"].dynamic is None
    assert found.variants["a"].dynamic_unclear is False
    assert found.idle_power_w is None


def test_rejected_windows_are_left_out_and_counted() -> None:
    readings, windows = exact({"teacher": 0.02, "student": 0.008}, windows=6)
    bad = of(windows, "student")[2]
    found = estimate(readings, changed(windows, [bad], rejected="the device throttled"), reference="teacher")
    assert (found.variants["student"].windows, found.variants["student"].rejected) == (5, 1)
    assert [each.reason for each in found.windows if each.reason] == ["the device throttled"]
    assert found.variants["student"].ratio is not None


def test_too_few_good_windows_are_no_measurement() -> None:
    readings, windows = exact({"teacher": 0.02, "student": 0.008})
    bad = of(windows, "student")[:2]
    found = estimate(readings, changed(windows, bad, rejected="the device throttled"))
    assert found.reasons == {
        "student": "3 good windows, at least 5 are needed (2 rejected: the device throttled)",
    }
    assert list(found.variants) == ["teacher"]
    quick = estimate(readings, changed(windows, bad, rejected="the device throttled"), quick=True)
    assert quick.variants["student"].windows == 3
    bad = of(windows, "student")[:3]
    few = estimate(readings, changed(windows, bad, rejected="the device throttled"), quick=True)
    assert few.reasons["student"].startswith("2 good windows, at least 3 are needed")


def test_a_gap_or_a_missing_total_rejects_its_window_only() -> None:
    readings, windows = exact({"a": 0.02}, windows=7)
    first, second = (windows[index] for index in of(windows, "a")[:2])
    middle = (first.start_ns + first.end_ns) // 2
    keep = (readings.time_ns <= middle) | (readings.time_ns > middle + 300_000_000)
    missing = (readings.time_ns > second.start_ns + 10**9) & (readings.time_ns < second.start_ns + 2 * 10**9)
    values = np.where(missing[:, None], np.nan, readings.values)
    found = estimate(replace(readings, time_ns=readings.time_ns[keep], values=values[keep]), windows)
    reasons = [each.reason for each in found.windows if each.reason]
    assert reasons == [
        "a gap of 0.4 s between readings, 2.5 periods are 0.25 s",
        "the total of a reading is missing or not finite",
    ]
    assert found.variants["a"].gross.value == pytest.approx(0.02)
    assert found.variants["a"].windows == 5


@pytest.mark.parametrize(
    ("factor", "accepted"), [(1.0, True), (1.009, True), (0.991, True), (1.02, False), (0.98, False), (1000.0, False)]
)
def test_watts_times_seconds_must_be_the_joules(factor: float, accepted: bool) -> None:
    readings, windows = exact({"teacher": 0.02, "student": 0.008})
    one = of(windows, "student")[0]
    watts = windows[one].mean_power_w
    assert watts is not None
    found = estimate(readings, changed(windows, [one], mean_power_w=factor * watts))
    assert list(found.variants) == (["teacher", "student"] if accepted else ["teacher"])
    if not accepted:
        assert "they differ by more than 1%" in found.reasons["student"]


def test_an_idle_window_that_contradicts_itself_refuses_all() -> None:
    readings, windows = exact({"teacher": 0.02, "student": 0.008})
    found = estimate(readings, changed(windows, of(windows, None)[:1], mean_power_w=4.1))
    assert list(found.reasons) == ["teacher", "student"]


def test_a_sensor_that_never_changes_is_dead() -> None:
    device = rounds({"a": (0.05, 100)}, idle_w=5.0)
    with pytest.raises(RejectedError, match="one and the same total, 5 W, in all windows: it is dead"):
        estimate(sensor(device, 0.1), device.described())


def test_a_counter_that_stands_still_rejects_every_window() -> None:
    readings, windows = exact({"a": 0.02})
    found = estimate(replace(readings, values=np.zeros_like(readings.values)), windows)
    assert found.reasons["a"].endswith("(5 rejected: the counter did not move)")


@pytest.mark.parametrize("time_ns", [[], [5], [1, 2, 2], [3, 2, 1]])
def test_time_stamps_must_increase(time_ns: list[int]) -> None:
    readings = Readings(np.array(time_ns, np.int64), np.ones((len(time_ns), 1)), {"a": "power"}, ("a",), 0.1)
    with pytest.raises(RejectedError, match="do not increase"):
        estimate(readings, [])


# Orin Nano: 5 mOhm at 5 V; the true energy is that of the simulated power, known in closed form.
TRUE = {"teacher": (0.080, 100.0), "student": (0.020, 350.0)}


def worst(period_s: float, seconds: float, seed: int) -> float:
    device = rounds(TRUE, seconds=seconds)
    readings = sensor(device, period_s, quantize=ina3221(0.005, 5.0), noise_w=0.15, jitter=0.2, seed=seed)
    found = estimate(readings, device.described(), reference="teacher")
    errors = [abs(found.variants[name].gross.value / true - 1) for name, (true, _) in TRUE.items()]
    ratio = found.variants["student"].ratio
    assert ratio is not None
    return max(*errors, abs(ratio.value / 4 - 1))


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_jetsons_sensor_at_10_hz_is_within_2_percent(seed: int) -> None:
    assert worst(0.1, 30.0, seed) < 0.02


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_jetsons_sensor_at_1_hz_is_within_5_percent(seed: int) -> None:
    assert worst(1.0, 60.0, seed) < 0.05


@settings(max_examples=20)
@given(st.integers(-(10**17), 10**17))
def test_the_clocks_zero_does_not_matter(shift: int) -> None:
    readings, windows = exact({"teacher": 0.02, "student": 0.008})
    there = estimate(
        replace(readings, time_ns=readings.time_ns + shift),
        [replace(window, start_ns=window.start_ns + shift, end_ns=window.end_ns + shift) for window in windows],
    )
    here = estimate(readings, windows)
    for name, own in here.variants.items():
        assert there.variants[name].gross == own.gross
        assert own.dynamic is not None
        other = there.variants[name].dynamic
        assert other is not None
        assert math.isclose(other.value, own.dynamic.value, rel_tol=1e-6)
