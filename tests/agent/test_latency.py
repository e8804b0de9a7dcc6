from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.agent.latency import cpu_share, make_plan, measure_rounds, time_calls, warm_up
from edgekd.agent.method import Method


class Counting:
    """A call that counts itself and notes its turn."""

    def __init__(self, name: int, log: list[int]) -> None:
        self.name, self.log = name, log

    def __call__(self) -> None:
        self.log.append(self.name)


@given(
    st.lists(st.floats(5e3, 5e9), min_size=1, max_size=6),
    st.integers(1, 6),
    st.floats(0, 20),
    st.integers(1, 2000),
    st.integers(1, 20),
)
def test_a_plan_reaches_what_the_method_asks(
    p50: list[float], processes: int, seconds: float, inferences: int, calls: int
) -> None:
    method = Method(processes=processes, seconds=seconds, inferences=inferences, calls=calls)
    plan = make_plan(p50, method)
    assert plan.rounds >= 5
    for count, each in zip(plan.calls, p50, strict=True):
        assert count >= calls
        assert processes * plan.rounds * count >= inferences
        assert processes * plan.rounds * count * each >= seconds * 1e9 * (1 - 1e-9)


@pytest.mark.parametrize(
    ("p50_ms", "rounds", "calls"),
    [
        # share: 2 s or 200 calls. 2 ms: 1000 calls in 100 turns of 10; the ten times faster one 100 calls in each
        ([2.0, 0.2], 100, (10, 100)),
        # turns of 2 ms at least: 2 s are 1000 rounds, of 100 calls of 20 us
        ([0.02, 0.02], 1000, (100, 100)),
        # 200 calls of 100 ms take 20 s: 20 rounds of 10; the fast one needs only its 2 s, 500 calls in each
        ([100.0, 0.2], 20, (10, 500)),
    ],
)
def test_turns_of_the_default_method(p50_ms: list[float], rounds: int, calls: tuple[int, ...]) -> None:
    plan = make_plan([value * 1e6 for value in p50_ms], Method())
    assert (plan.rounds, plan.calls) == (rounds, calls)


def test_rounds_call_each_column_in_the_noted_order() -> None:
    log: list[int] = []
    calls = [Counting(index, log) for index in range(3)]
    plan = make_plan([1e6, 1e6, 5e5], Method(processes=1, seconds=0, inferences=60, calls=10))
    arrays = measure_rounds(calls, plan, 2, np.random.default_rng(0), lambda _: None)
    rounds = len(arrays["order"])
    assert rounds == plan.rounds == 6
    assert arrays["order"].dtype == np.int16
    assert len({tuple(row) for row in arrays["order"].tolist()}) > 1
    expected = []
    for row in arrays["order"].tolist():
        assert sorted(row) == [0, 1, 2]
        for column in row:
            expected += [column] * (2 + plan.calls[column])
    assert log == expected
    for column in range(3):
        assert arrays[f"latency_ns_{column}"].shape == (rounds, plan.calls[column])
        assert arrays[f"settling_ns_{column}"].shape == (rounds, 2)
        assert arrays[f"latency_ns_{column}"].dtype == np.int64
        assert (arrays[f"latency_ns_{column}"] > 0).all()


def test_rounds_are_added_when_the_calls_became_faster_but_not_without_end() -> None:
    plan = make_plan([1e9], Method(processes=1, seconds=100, inferences=1, calls=2))
    arrays = measure_rounds([lambda: None], plan, 0, np.random.default_rng(0), lambda _: None)
    assert len(arrays["order"]) == 2 * plan.rounds
    assert arrays["settling_ns_0"].shape == (2 * plan.rounds, 0)


def test_times_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([100, 117, 200, 240])
    monkeypatch.setattr("edgekd.agent.latency.time.perf_counter_ns", lambda: next(ticks))
    times = np.zeros(2, np.int64)
    time_calls(lambda: None, times)
    assert times.tolist() == [17, 40]


class Clock:
    """A clock that stands still but for the calls, each of which takes the next given number of nanoseconds."""

    def __init__(self, durations: list[int]) -> None:
        self.now, self.durations = 0, durations

    def __call__(self) -> int:
        return self.now

    def work(self) -> None:
        self.now += self.durations.pop(0) if len(self.durations) > 1 else self.durations[0]


@pytest.mark.parametrize(
    ("durations", "calls", "p50", "steady"),
    [
        ([10_000_000], 9, 10e6, True),  # three windows of three calls
        ([50_000_000] * 3 + [30_000_000] * 3 + [10_000_000], 15, 10e6, True),  # the first two windows do not agree
        (
            [20_000_000 + 9_000_000 * index for index in range(200)],
            15,
            None,
            False,
        ),  # ever slower, until 0.9 s are over
    ],
)
def test_warm_up_ends_when_three_windows_agree(
    monkeypatch: pytest.MonkeyPatch, durations: list[int], calls: int, p50: float | None, steady: bool
) -> None:
    clock = Clock(list(durations))
    monkeypatch.setattr("edgekd.agent.latency.time.perf_counter_ns", clock)
    result = warm_up(clock.work, 0.9, 3)
    assert len(result.times_ns) == calls
    assert result.steady == steady
    if p50 is not None:
        assert result.p50_ns == p50
    np.testing.assert_array_equal(result.times_ns, (durations + durations[-1:] * 1000)[:calls])


def test_a_sleeping_process_uses_no_cpu() -> None:
    assert 0 <= cpu_share(0.05) < 1
