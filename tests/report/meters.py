"""Simulated meters whose energy is known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.report.integration import Readings, Window

S = 1_000_000_000


@dataclass(frozen=True)
class Device:
    """A device that idles, runs variants in windows, and draws a constant power in each.

    Args:
        windows: (variant or None, watts, seconds, inferences), one after the other.
        start_s: Begin of the first one on the device's clock.
        between_s: Pause between two, in which the next one already runs: half of it before, half after.
    """

    windows: Sequence[tuple[str | None, float, float, int]]
    start_s: float = 1000.0
    between_s: float = 4.0

    def described(self) -> list[Window]:
        """The windows as an agent tells of them."""
        found, now = [], self.start_s
        for variant, _, seconds, inferences in self.windows:
            begin, end = round(now * S), round((now + seconds) * S)
            found.append(Window("active" if variant else "idle", variant, begin, end, seconds, inferences))
            now += seconds + self.between_s
        return found

    def power(self, times: np.ndarray) -> np.ndarray:
        """Watts at moments of the device's clock."""
        lengths = [seconds + self.between_s for _, _, seconds, _ in self.windows]
        ends = self.start_s - self.between_s / 2 + np.cumsum(lengths)
        index = np.minimum(np.searchsorted(ends, times, side="right"), len(self.windows) - 1)
        found: np.ndarray = np.array([watts for _, watts, _, _ in self.windows])[index]
        return found


def sensor(
    device: Device,
    period_s: float,
    *,
    quantize: Callable[[np.ndarray], np.ndarray] = lambda watts: watts,
    noise_w: float = 0.0,
    drift_w_per_s: float = 0.0,
    jitter: float = 0.0,
    seed: int = 0,
) -> Readings:
    """Samples of a power sensor on one rail, from 10 s before the first window to 10 s after the last one."""
    rng = np.random.default_rng(seed)
    windows = device.described()
    begin, end = windows[0].start_ns / S - 10, windows[-1].end_ns / S + 10
    times = np.arange(begin + rng.uniform(0, period_s), end, period_s)
    times = times + jitter * period_s * rng.uniform(-0.5, 0.5, len(times))
    watts = device.power(times) + noise_w * rng.standard_normal(len(times)) + drift_w_per_s * (times - begin)
    return Readings(
        np.round(times * S).astype(np.int64), quantize(watts)[:, None], {"VDD_IN": "power"}, ("VDD_IN",), period_s
    )


def ina3221(shunt_ohm: float, volts: float) -> Callable[[np.ndarray], np.ndarray]:
    """How that chip rounds: 40 uV of the shunt, 8 mV of the bus, and the driver's whole mA and mV."""

    def quantize(watts: np.ndarray) -> np.ndarray:
        bus_v = np.round(np.full_like(watts, volts) / 0.008) * 0.008
        shunt_v = np.round(watts / volts * shunt_ohm / 40e-6) * 40e-6
        milliamperes = np.round(shunt_v / shunt_ohm * 1e3)
        return np.round(bus_v * 1e3) * milliamperes * 1e-6

    return quantize


def counter(times_s: np.ndarray, joules: np.ndarray, period_s: float) -> Readings:
    """A counter of joules on one rail."""
    return Readings(
        np.round(times_s * S).astype(np.int64), joules[:, None], {"package-0": "energy"}, ("package-0",), period_s
    )


def rounds(
    joules: dict[str, tuple[float, float]],
    *,
    windows: int = 5,
    seconds: float = 30.0,
    idle_w: float = 4.0,
    idle_s: float = 30.0,
) -> Device:
    """Rounds of windows in ABBA order between two idle windows.

    Args:
        joules: By variant: (joules per inference, inferences per second).
    """  # fmt: skip
    names = list(joules)
    found: list[tuple[str | None, float, float, int]] = [(None, idle_w, idle_s, 0)]
    for turn in range(windows):
        for name in names if turn % 2 == 0 else names[::-1]:
            each, rate = joules[name]
            found.append((name, each * rate, seconds, round(rate * seconds)))
    return Device([*found, (None, idle_w, idle_s, 0)])
