"""On a clock that moves only by work and sleep, so lengths and counts are exact."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.agent import windows
from edgekd.agent.windows import burst, run

from .clock import Clock

SECOND = 10**9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch, windows)


def test_back_to_back_calls_fill_the_window(clock: Clock) -> None:
    timed = run(lambda: clock.spend(0.25), 2.0, None)
    assert (timed.start_ns, timed.end_ns, timed.seconds) == (0, 2 * SECOND, 2.0)
    assert (timed.inferences, timed.late) == (8, 0)


def test_a_call_that_was_begun_is_finished_and_counted(clock: Clock) -> None:
    timed = run(lambda: clock.spend(0.3), 1.0, None)
    assert (timed.end_ns, timed.inferences) == (1_200_000_000, 4)
    assert run(lambda: clock.spend(7), 1.0, None).inferences == 1


def test_an_idle_window_has_no_inferences(clock: Clock) -> None:
    timed = run(None, 2.0, None)
    assert (timed.end_ns - timed.start_ns, timed.inferences, timed.late) == (2 * SECOND, 0, 0)
    assert run(None, 0.001, 30.0).seconds == pytest.approx(0.001)


def test_paced_calls_start_with_their_slots_and_sleep_in_between(clock: Clock) -> None:
    starts: list[int] = []

    def call() -> None:
        starts.append(clock.now_ns)
        clock.spend(0.03)

    timed = run(call, 1.0, 10.0)
    assert starts == [n * SECOND // 10 for n in range(10)]
    assert (timed.inferences, timed.late, timed.end_ns) == (10, 0, SECOND)
    assert sum(clock.slept) == pytest.approx(0.7)


def test_one_slow_call_makes_the_next_one_late(clock: Clock) -> None:
    lengths = iter([0.03, 0.12, *[0.03] * 8])
    timed = run(lambda: clock.spend(next(lengths)), 1.0, 10.0)
    assert (timed.inferences, timed.late, timed.end_ns) == (10, 1, SECOND)


def test_slots_that_have_passed_are_left_out(clock: Clock) -> None:
    lengths = iter([0.03, 0.35, *[0.03] * 8])  # the second call covers slots 2 and 3, and the begin of 4
    timed = run(lambda: clock.spend(next(lengths)), 1.0, 10.0)
    assert (timed.inferences, timed.late, timed.end_ns) == (8, 3, SECOND)


@given(st.integers(1, 60), st.integers(1, 400), st.integers(1, 20))
def test_every_slot_is_a_call_or_is_late(pace_hz: int, call_ms: int, seconds: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock().install(patch, windows)
        timed = run(lambda: clock.spend(call_ms / 1000), seconds, pace_hz)
    slots = seconds * pace_hz
    assert timed.inferences <= slots <= timed.inferences + timed.late
    assert timed.seconds == pytest.approx(max(seconds, timed.inferences * call_ms / 1000), abs=call_ms / 1000)
    if call_ms * pace_hz < 1000:
        assert (timed.inferences, timed.late) == (slots, 0)


def test_bursts_are_unequal_loads_and_pauses(clock: Clock) -> None:
    marks = burst(lambda: clock.spend(0.1), 1.0)
    loads = [(end - start) / SECOND for start, end in marks]
    pauses = [(later[0] - earlier[1]) / SECOND for earlier, later in pairwise(marks)]
    assert loads == [2, 1, 3]
    assert pauses == [1, 2]
    assert marks[0][0] == 2 * SECOND  # quiet before
    assert clock.now_ns == marks[-1][1] + 2 * SECOND  # and after
