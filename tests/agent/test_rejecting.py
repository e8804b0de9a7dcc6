from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.agent import rejecting
from edgekd.agent.rejecting import Conditions, changed, look, unfit, unseen
from edgekd.agent.sampling import Progress
from edgekd.agent.windows import Timed

SECOND = 10**9
CALM = Conditions({"class/hwmon/hwmon3/oc1_event_cnt": 4}, "15W (id 0)", {"cpu0": 1500.0, "gpu": 600.0})
WARM = {"cpu0": 1500.0, "gpu": 620.0}


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (CALM, None),
        (CALM._replace(throttled={"class/hwmon/hwmon3/oc1_event_cnt": 5}), "the device throttled: class/hwmon/"),
        (CALM._replace(throttled={**CALM.throttled, "new": 7}), None),  # a counter that was not there has not risen
        (CALM._replace(mode="MAXN (id 2)"), "the power mode changed from 15W (id 0) to MAXN (id 2)"),
        (CALM._replace(clocks={"cpu0": 1500.0, "gpu": 435.0}), None),  # just above 0.7
        (CALM._replace(clocks={"cpu0": 1500.0, "gpu": 433.0}), "the clock of gpu fell to 433 MHz; it was 620 MHz when"),
        (CALM._replace(clocks={"cpu0": 1500.0}), None),  # a clock that cannot be read has not fallen
    ],
)
def test_what_changed(after: Conditions, reason: str | None) -> None:
    found = changed(CALM, after, WARM)
    assert found == reason or (reason is not None and str(found).startswith(reason))


def test_clocks_may_fall_where_nothing_is_said_of_them() -> None:
    assert changed(CALM, CALM._replace(clocks={"gpu": 114.0}), {}) is None


@pytest.mark.parametrize(
    ("timed", "pace_hz", "reason"),
    [
        (Timed(0, 10 * SECOND, 10.0, 3, 0), None, None),
        (Timed(0, 16 * SECOND, 16.0, 3, 0), None, None),
        (Timed(0, 17 * SECOND, 17.0, 3, 0), None, "it lasted 17.0 s instead of 10 s"),
        (Timed(0, 17 * SECOND, 17.0, 0, 0), None, "it lasted 17.0 s instead of 10 s"),
        (Timed(0, 60 * SECOND, 60.0, 1, 0), None, None),  # one inference that takes so long
        (Timed(0, 10 * SECOND, 10.0, 99, 1), 10.0, None),
        (Timed(0, 10 * SECOND, 10.0, 95, 5), 10.0, None),
        (
            Timed(0, 10 * SECOND, 10.0, 94, 6),
            10.0,
            "the variant cannot keep 10 calls per second: 6 came late or not at all",
        ),
    ],
)
def test_how_it_ran(timed: Timed, pace_hz: float | None, reason: str | None) -> None:
    assert unfit(timed, 10.0, pace_hz) == reason


BEGIN = Progress(100, 2, 10 * SECOND, False)


@pytest.mark.parametrize(
    ("end", "later", "later_s", "reason"),
    [
        (Progress(120, 2, 30 * SECOND, False), Progress(122, 2, 32 * SECOND, False), 33.0, None),
        (Progress(119, 2, 30 * SECOND, False), Progress(122, 2, 32 * SECOND, False), 33.0, "19 readings of the power"),
        (
            Progress(120, 3, 30 * SECOND, False),
            Progress(122, 3, 32 * SECOND, False),
            33.0,
            "the power meter left a gap",
        ),
        # Over the end of the window: known only by the next reading, or because there is none.
        (
            Progress(120, 2, 30 * SECOND, False),
            Progress(121, 3, 33 * SECOND, False),
            33.0,
            "the power meter left a gap",
        ),
        (
            Progress(120, 2, 30 * SECOND, False),
            Progress(120, 2, 30 * SECOND, False),
            32.6,
            "the power meter left a gap",
        ),
    ],
)
def test_what_the_meter_saw(end: Progress, later: Progress, later_s: float, reason: str | None) -> None:
    found = unseen(1.0, BEGIN, end, later, int(later_s * SECOND))
    assert found == reason or (reason is not None and str(found).startswith(reason))


def test_only_the_clocks_of_the_measured_cores_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clocks = {"cpu0": 800.0, "cpu3": 1500.0, "gpu": 600.0}
    monkeypatch.setattr(rejecting, "clocks_mhz", lambda: clocks)
    monkeypatch.setattr(rejecting, "throttle_counts", lambda: {"a": 1})
    monkeypatch.setattr(rejecting, "power_mode", lambda: "15W")
    assert look([3]) == Conditions({"a": 1}, "15W", {"cpu3": 1500.0, "gpu": 600.0})
    assert look(None).clocks == clocks
