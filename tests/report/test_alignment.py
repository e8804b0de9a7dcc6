from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from edgekd.report.alignment import Alignment, align
from edgekd.report.integration import RejectedError

IDLE_W, LOAD_W = 3.0, 7.0
Spans = list[tuple[float, float]]


@dataclass(frozen=True)
class Scene:
    """A device whose load is known at every moment, and the meter in its cable.

    Args:
        unit_s: Bursts are 2, 1 and 3 of it long, with pauses of 1 and 2, before and after the windows.
        gap_s: Between the two groups.
    """

    unit_s: float = 3.0
    gap_s: float = 1200.0
    start_s: float = 5000.0

    def spans(self) -> tuple[Spans, Spans]:
        """Bursts and windows on the device's clock."""
        bursts, now = [], self.start_s
        windows: Spans = []
        for group in range(2):
            now += 2 * self.unit_s
            for length, pause in zip((2, 1, 3), (1, 2, 2), strict=True):
                bursts.append((now, now + length * self.unit_s))
                now += (length + pause) * self.unit_s
            if group == 0:
                end = now + self.gap_s
                windows = [(now, now + 30)]
                while windows[-1][1] + 31 < end - 31:
                    windows.append((windows[-1][1] + 1, windows[-1][1] + 31))
                now = end
        return bursts, windows

    def readings(
        self, period_s: float, *, offset_s: float = 0.0, drift: float = 0.0, noise: float = 0.0, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the meter says: means over the period around each reading, on its own clock."""
        rng = np.random.default_rng(seed)
        bursts, windows = self.spans()
        starts, ends = (np.array(side) for side in zip(*bursts, *windows[1:-1], strict=True))
        times = np.arange(self.start_s - 60 + rng.uniform(0, period_s), ends.max() + 60, period_s)
        edges = [times[:, None] - period_s / 2, times[:, None] + period_s / 2]
        so_far = [np.clip(edge - starts, 0, ends - starts).sum(axis=1) for edge in edges]
        watts = IDLE_W + (LOAD_W - IDLE_W) * (so_far[1] - so_far[0]) / period_s
        watts = watts + noise * (LOAD_W - IDLE_W) * rng.standard_normal(len(times))
        return offset_s + (times - self.start_s) * (1 + drift), watts


def error_s(found: Alignment, scene: Scene, offset_s: float, drift: float, after_s: float) -> float:
    """How far a moment of the meter's clock is put from the right one."""
    moment = np.array([offset_s + after_s * (1 + drift)])
    return float(abs(found.on_device(moment)[0] - (scene.start_s + after_s)))


@pytest.mark.parametrize("offset_s", [0.0, -4999.3, 1_764_115_200.25])
@pytest.mark.parametrize("drift", [0.0, 2e-4, -8e-4])
@pytest.mark.parametrize(("period_s", "unit_s"), [(1.0, 4.0), (0.1, 1.0), (0.01, 0.5)])
def test_offset_and_drift_are_found(offset_s: float, drift: float, period_s: float, unit_s: float) -> None:
    scene = Scene(unit_s)
    times, watts = scene.readings(period_s, offset_s=offset_s, drift=drift, noise=0.05)
    found = align(*scene.spans(), times, watts)
    for after_s in (0.0, 600.0, 1200.0):
        assert error_s(found, scene, offset_s, drift, after_s) < max(0.15 * period_s, 0.01)
    assert found.drift == pytest.approx(drift, abs=1e-4)
    assert found.correlation > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_borne(seed: int) -> None:
    scene = Scene(1.0)
    times, watts = scene.readings(0.1, noise=0.25, seed=seed)
    assert error_s(align(*scene.spans(), times, watts), scene, 0.0, 0.0, 600.0) < 0.1


def reason(scene: Scene, times: np.ndarray, watts: np.ndarray) -> str:
    with pytest.raises(RejectedError) as caught:
        align(*scene.spans(), times, watts)
    return str(caught.value)


def test_readings_without_the_bursts_are_refused() -> None:
    scene = Scene()
    times, watts = scene.readings(1.0)
    assert "do not show the marker bursts" in reason(scene, times, np.random.default_rng(0).uniform(3, 7, len(times)))
    assert "do not show the marker bursts" in reason(scene, times, np.full(len(times), 4.0))
    assert "Does the file cover the whole measurement" in reason(scene, times[:300], watts[:300])
    assert "do not show the marker bursts" in reason(scene, times[:5], watts[:5])


def test_readings_with_two_measurements_are_ambiguous() -> None:
    scene = Scene()
    times, watts = scene.readings(1.0)
    twice = np.concatenate([times, times + times[-1] - times[0] + 1.0]), np.concatenate([watts, watts])
    assert "more than one place" in reason(scene, *twice)
    assert align(*scene.spans(), times, watts).correlation > 0.9


def test_a_meter_that_is_too_slow_for_the_bursts_is_told() -> None:
    scene = Scene(1.0)
    assert "power.period_s" in reason(scene, *scene.readings(1.0))


def test_bursts_are_needed_on_both_sides() -> None:
    scene = Scene()
    bursts, windows = scene.spans()
    times, watts = scene.readings(1.0)
    for some in (bursts[:3], bursts[3:], []):
        with pytest.raises(RejectedError, match="no marker bursts before and after"):
            align(some, windows, times, watts)
    with pytest.raises(RejectedError, match="no marker bursts"):
        align(bursts, [], times, watts)
    overlapping = [bursts[0], (bursts[0][0] + 1, bursts[0][1] + 1), *bursts[1:]]
    with pytest.raises(RejectedError, match="overlap"):
        align(overlapping, windows, times, watts)
