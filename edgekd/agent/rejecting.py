"""Why a window of energy cannot be used. Nothing is repaired: it is kept, with the reason, and measured again."""

from __future__ import annotations

from typing import Dict, Mapping, NamedTuple, Optional, Sequence

from edgekd.agent.clocks import clocks_mhz, throttle_counts
from edgekd.agent.jetson import power_mode
from edgekd.agent.sampling import FEWEST_READINGS, GAP_PERIODS, Progress
from edgekd.agent.windows import Timed

_LONGEST = 1.5  # a window this many times longer than asked was disturbed
_COLLAPSED = 0.7  # of the clock that the device had when it was warm
_LATE_SHARE = 0.05


class Conditions(NamedTuple):
    """What decides the speed of the device: its counters of throttling, its power mode, its clocks in MHz."""

    throttled: Dict[str, int]
    mode: Optional[str]
    clocks: Dict[str, float]


def look(cores: Optional[Sequence[int]]) -> Conditions:
    """Return the conditions now; of the CPU's clocks those of the measured cores, as the others may rest."""
    measured = {"cpu%d" % core for core in cores or ()}
    clocks = {
        name: clock
        for name, clock in clocks_mhz().items()
        if not measured or name in measured or not name.startswith("cpu")
    }
    return Conditions(throttle_counts(), power_mode(), clocks)


def changed(before: Conditions, after: Conditions, warm_mhz: Mapping[str, float]) -> Optional[str]:
    """Return what happened to the device in a window; None where nothing did.

    Args:
        before: The conditions before the window; `after`: when it had ended.
        warm_mhz: The clocks at the end of the warm-up; {} where they may fall.
    """
    risen = sorted(name for name, count in after.throttled.items() if count > before.throttled.get(name, count))
    if risen:
        return "the device throttled: %s rose" % ", ".join(risen)
    if before.mode != after.mode:
        return "the power mode changed from %s to %s" % (before.mode, after.mode)
    for name, warm in warm_mhz.items():
        if after.clocks.get(name, warm) < _COLLAPSED * warm:
            return "the clock of %s fell to %.0f MHz; it was %.0f MHz when warm" % (name, after.clocks[name], warm)
    return None


def unfit(timed: Timed, asked_s: float, pace_hz: Optional[float]) -> Optional[str]:
    """Return what is wrong with how a window ran; None where nothing is."""
    lasted = (timed.end_ns - timed.start_ns) / 1e9
    if lasted > _LONGEST * asked_s + 1 and timed.inferences != 1:
        return "it lasted %.1f s instead of %g s" % (lasted, asked_s)
    if pace_hz is not None and timed.late > _LATE_SHARE * (timed.inferences + timed.late):
        return "the variant cannot keep %g calls per second: %d came late or not at all" % (pace_hz, timed.late)
    return None


def unseen(period_s: float, begin: Progress, end: Progress, later: Progress, later_ns: int) -> Optional[str]:
    """Return why the meter did not see a window; None where it did.

    Args:
        period_s: Period of the meter.
        begin: The sampler's progress at the begin of the window; `end`: at its end.
        later: Its progress when the run of the variant was over, at CLOCK_MONOTONIC `later_ns`: only then a gap that
            lies over the end is known.
    """
    if later.gaps > begin.gaps or later_ns - later.last_ns > GAP_PERIODS * period_s * 1e9:
        return "the power meter left a gap of more than %g periods, or told no total" % GAP_PERIODS
    readings = end.readings - begin.readings
    if readings < FEWEST_READINGS:
        return "%d readings of the power meter, at least %d are needed" % (readings, FEWEST_READINGS)
    return None
