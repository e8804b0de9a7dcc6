from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from edgekd.agent import warming, windows
from edgekd.agent.warming import WarmUp, warm_up

from .clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch, windows, warming)


def told(values: Iterator[float], name: str) -> Callable[[], dict[str, float]]:
    return lambda: {name: next(values)}


def warmed(
    clock: Clock, clocks: Iterator[float], temperatures: Iterator[float], pace_hz: float | None = None
) -> WarmUp:
    calls = [lambda: clock.spend(0.01), lambda: clock.spend(0.05)]
    return warm_up(calls, 10.0, pace_hz, told(clocks, "gpu"), told(temperatures, "tj"))


def falling_to(value: float, first: float, step: float) -> Iterator[float]:
    while True:
        yield first
        first = max(value, first - step)


def test_a_steady_device_is_warm_after_the_shortest_time(clock: Clock) -> None:
    warm = warmed(clock, iter([306.0, 1000.0, *[1020.0] * 9]), iter([40.0] * 11))
    assert warm.seconds == pytest.approx(11)  # one second more, until the first clock is forgotten and 1000 is near
    assert (warm.steady, warm.reason, warm.clocks) == (True, None, {"gpu": 1020.0})


def test_all_variants_run_in_turn_for_equal_times(clock: Clock) -> None:
    spent = [0.0, 0.0]

    def call(index: int, seconds: float) -> None:
        spent[index] += seconds
        clock.spend(seconds)

    warm_up([lambda: call(0, 0.01), lambda: call(1, 0.05)], 10.0, None, lambda: {"gpu": 1.0}, dict)
    assert spent == [pytest.approx(5), pytest.approx(5)]


def test_it_waits_until_the_temperature_hardly_rises(clock: Clock) -> None:
    rising = iter([40 + 0.25 * min(n, 16) for n in range(100)])  # a quarter of a degree per second, 16 s long
    warm = warmed(clock, iter([1020.0] * 100), rising)
    assert warm.steady
    assert warm.seconds == pytest.approx(22)  # observations 13 to 22 lie within one degree


def test_it_gives_up_and_says_so(clock: Clock) -> None:
    warm = warmed(clock, iter([1020.0] * 100), iter([40 + 0.25 * n for n in range(100)]))
    assert warm.seconds == pytest.approx(60)
    assert not warm.steady
    assert warm.reason == "the temperature of tj moved between 52.5 and 54.8 degC"
    warm = warmed(clock, iter([1020.0, 510.0] * 50), iter([40.0] * 100))
    assert warm.reason == "the clock of gpu moved between 510 and 1020 MHz"


def test_paced_calls_leave_the_clocks_free(clock: Clock) -> None:
    warm = warmed(clock, iter([1020.0, 510.0] * 50), iter([40.0] * 100), pace_hz=10.0)
    assert warm.steady
    assert warm.seconds == pytest.approx(10)


def test_a_device_that_tells_nothing_is_not_called_steady(clock: Clock) -> None:
    warm = warm_up([lambda: clock.spend(0.1)], 1.0, None, dict, dict)
    assert warm.seconds == pytest.approx(1)  # there is nothing to wait for
    assert (warm.steady, warm.reason) == (False, "this device tells no clocks or temperatures to judge by")
