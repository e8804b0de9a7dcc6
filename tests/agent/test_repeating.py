"""How often a profiled model runs."""

from __future__ import annotations

import pytest

from edgekd.agent import repeating


@pytest.mark.parametrize(("seconds", "times"), [(0.001, 20), (0.3, 4), (60, 2)])
def test_a_profile_is_repeated_as_long_as_it_is_cheap(
    monkeypatch: pytest.MonkeyPatch, seconds: float, times: int
) -> None:
    clock = [0.0]
    monkeypatch.setattr(repeating.time, "monotonic", lambda: clock[0])

    def run() -> None:
        clock[0] += seconds

    assert repeating.repeat(run) == times
    assert repeating.repeat(run, 3) == min(times, 3)
