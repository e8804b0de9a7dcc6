"""How wrong the energy estimate is on simulated sensors, and how often its intervals hold the truth.

The power is a formula, so its energy is known exactly: a load that warms up (an exponential), ripples (a sine) and
changes from window to window. A sensor reads it at 1, 10 or 100 Hz with jitter and noise, and rounds voltage and
current as an INA3221 does on an Orin Nano (5 mOhm at 5 V: steps of 40 mW) or an AGX Orin (2 mOhm at 20 V: 0.4 W).
Beside the report's estimator stand the two usual methods on the very same readings: mean power times time, and the sum
of power times the time since the reading before (rectangles). Where readings are missing the estimator refuses the
window, the others do not.

Usage: python benchmarks/energy_estimator.py [--trials 200]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.report.energy import estimate, over_windows
from edgekd.report.integration import Readings, RejectedError, Window, joules_between
from edgekd.report.statistics import paired_medians

FloatArray = NDArray[np.float64]

S = 1_000_000_000
WINDOWS = 5
SECONDS = {1.0: 60.0, 10.0: 30.0, 100.0: 30.0}
LEAD_S = 3.0  # the load runs so long before and after what is counted


@dataclass(frozen=True)
class Sensor:
    """A sensor: shunt and supply voltage as the chip sees them (0: no rounding), and its noise."""

    name: str
    shunt_ohm: float = 0.0
    volts: float = 5.0
    noise_w: float = 0.0

    def read(self, watts: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return what the sensor says: 40 uV of the shunt, 8 mV of the bus, whole mA and mV."""
        noisy = watts + self.noise_w * rng.standard_normal(len(watts))
        if not self.shunt_ohm:
            return noisy
        volts = np.round(self.volts * (1 + 0.002 * rng.standard_normal(len(watts))) / 0.008) * 0.008
        milliamperes = np.round(np.round(noisy / volts * self.shunt_ohm / 40e-6) * 40e-6 / self.shunt_ohm * 1e3)
        found: FloatArray = np.round(volts * 1e3) * milliamperes * 1e-6
        return found


SENSORS = (
    Sensor("exact"),
    Sensor("Orin Nano, 40 mW", 0.005, 5.0, 0.15),
    Sensor("AGX Orin, 0.4 W", 0.002, 20.0, 0.4),
)


@dataclass(frozen=True)
class Load:
    """watts · (1 + warm · (1 - e^(-t/τ)) + ripple · sin(2πft + φ)), t since the begin of the window."""

    watts: float
    warm: float = 0.06
    tau_s: float = 20.0
    ripple: float = 0.10
    hertz: float = 0.37
    phase: float = 0.0

    def power(self, t: FloatArray) -> FloatArray:
        """Return the watts at moments."""
        warm = self.warm * (1 - np.exp(-np.maximum(t, -LEAD_S) / self.tau_s))
        found: FloatArray = self.watts * (1 + warm + self.ripple * np.sin(2 * np.pi * self.hertz * t + self.phase))
        return found

    def energy(self, seconds: float) -> float:
        """Return the joules of the first so many seconds, in closed form."""
        warm = self.warm * (seconds - self.tau_s * (1 - np.exp(-seconds / self.tau_s)))
        turn = 2 * np.pi * self.hertz
        ripple = self.ripple * (np.cos(self.phase) - np.cos(turn * seconds + self.phase)) / turn
        return float(self.watts * (seconds + warm + ripple))


def readings(
    load: Load, sensor: Sensor, hertz: float, seconds: float, rng: np.random.Generator, gap_s: float = 0.0
) -> Readings:
    """Return readings of a window that begins at 0, with jittered times; some are missing where a gap is asked for."""
    times = np.arange(-LEAD_S + rng.uniform(0, 1 / hertz), seconds + LEAD_S, 1 / hertz)
    times = times + 0.2 / hertz * rng.uniform(-0.5, 0.5, len(times))
    if gap_s:
        begin = rng.uniform(1, seconds - gap_s - 1)
        times = times[(times < begin) | (times > begin + gap_s)]
    watts = sensor.read(load.power(times), rng)
    return Readings(np.round(times * S).astype(np.int64), watts[:, None], {"total": "power"}, ("total",), 1 / hertz)


def mean_times_time(found: Readings, seconds: float) -> float:
    """The mean of the readings inside, times the length of the window."""
    times, watts = found.time_ns / S, found.values[:, 0]
    return float(watts[(times >= 0) & (times <= seconds)].mean() * seconds)


def rectangles(found: Readings, seconds: float) -> float:
    """Each reading inside, times the time since the one before, from the begin of the window on."""
    times, watts = found.time_ns / S, found.values[:, 0]
    inside = (times >= 0) & (times <= seconds)
    return float((watts[inside] * np.diff(times[inside], prepend=0.0)).sum())


METHODS: dict[str, Callable[[Readings, float], float]] = {
    "edgekd": lambda found, seconds: joules_between(found, 0, round(seconds * S)),
    "mean x time": mean_times_time,
    "rectangles": rectangles,
}


def errors(sensor: Sensor, hertz: float, gap_s: float, trials: int) -> tuple[dict[str, list[float]], int]:
    """Return each method's relative errors of a median over windows, and how many windows edgekd refused."""
    rng = np.random.default_rng([SENSORS.index(sensor), round(hertz), round(gap_s)])
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    seconds, refused = SECONDS[hertz], 0
    for _ in range(trials):
        ratios: dict[str, list[float]] = {name: [] for name in METHODS}
        for _ in range(WINDOWS):
            load = Load(8.0 * (1 + 0.01 * rng.standard_normal()), phase=rng.uniform(0, 2 * np.pi))
            read = readings(load, sensor, hertz, seconds, rng, gap_s)
            for name, method in METHODS.items():
                try:
                    ratios[name].append(method(read, seconds) / load.energy(seconds))
                except RejectedError:
                    refused += 1
        for name, values in ratios.items():
            if values:
                found[name].append(float(np.median(values)) - 1)
    return found, refused


def print_errors(trials: int) -> None:
    print(f"\nError of joules per inference, median of {WINDOWS} windows, {trials} trials: median and 99th percentile")
    print(
        f"{'sensor':<20}{'rate':>7}{'window':>8}{'gap':>6}" + "".join(f"{name:>22}" for name in METHODS) + "   refused"
    )
    for gap_s in (0.0, 5.0):
        for sensor in SENSORS:
            for hertz, seconds in SECONDS.items():
                found, refused = errors(sensor, hertz, gap_s, trials)
                cells = []
                for values in found.values():
                    size = np.abs(values)
                    cells.append(f"{np.median(size):.3%} {np.quantile(size, 0.99):>8.3%}" if len(size) else "-")
                line = f"{sensor.name:<20}{hertz:>4g} Hz{seconds:>6g} s{gap_s:>4g} s"
                print(line + "".join(f"{cell:>22}" for cell in cells) + f"{refused / trials / WINDOWS:>10.0%}")


def bootstrap(values: FloatArray) -> tuple[float, float]:
    """The plain alternative: the median's percentile bootstrap."""
    return paired_medians([[values]])[0].ci


def print_coverage(trials: int) -> None:
    """Windows as independent draws around a known truth."""
    print(f"\nHow often a 95 % interval over windows holds the truth, {trials} trials")
    print(f"{'windows differ by':<34}{'n':>4}{'edgekd (t)':>14}{'bootstrap':>12}{'width t / bootstrap':>22}")
    draws: dict[str, Callable[[np.random.Generator, int], FloatArray]] = {
        "normal, 1 %": lambda rng, n: 1 + 0.01 * rng.standard_normal(n),
        "skewed (log-normal, 20 %)": lambda rng, n: np.exp(0.2 * rng.standard_normal(n) - 0.02),
        "uniform steps of the sensor": lambda rng, n: 1 + 0.01 * rng.uniform(-1, 1, n),
    }
    for name, draw in draws.items():
        for n in (3, 5, 10):
            rng = np.random.default_rng(n)
            hits, widths = np.zeros(2), np.zeros(2)
            for _ in range(trials):
                values = draw(rng, n)
                for index, (low, high) in enumerate((over_windows(values).ci, bootstrap(values))):
                    hits[index] += low <= 1 <= high
                    widths[index] += high - low
            t, plain = hits / trials
            print(f"{name:<34}{n:>4}{t:>14.1%}{plain:>12.1%}{widths[0] / widths[1]:>22.2f}")


def measured(rng: np.random.Generator, idle_sd: float) -> tuple[Readings, list[Window]]:
    """Return a whole measurement of two variants: idle, five rounds ABBA, idle; 8 W and 5 W above 3 W, 10 Hz."""
    spans: list[tuple[str | None, float]] = [(None, 3.0 * (1 + idle_sd * rng.standard_normal()))]
    for turn in range(WINDOWS):
        drift = 1 + 0.02 * rng.standard_normal()  # of the round: both variants share it
        for name in ("teacher", "student")[:: 1 if turn % 2 == 0 else -1]:
            watts = {"teacher": 8.0, "student": 5.0}[name]
            spans.append((name, watts * drift * (1 + 0.005 * rng.standard_normal())))
    spans.append((None, 3.0 * (1 + idle_sd * rng.standard_normal())))
    windows, times, watts, now = [], [], [], 0.0
    for variant, power in spans:
        moments = np.arange(now, now + 36.0, 0.1)
        times.append(moments)
        watts.append(SENSORS[1].read(np.full(len(moments), power), rng))
        begin, end = round((now + 3) * S), round((now + 33) * S)
        windows.append(Window("active" if variant else "idle", variant, begin, end, 30.0, 1000 if variant else 0))
        now += 36.0
    time_ns = np.round(np.concatenate(times) * S).astype(np.int64)
    return Readings(time_ns, np.concatenate(watts)[:, None], {"VDD_IN": "power"}, ("VDD_IN",), 0.1), windows


def print_whole(trials: int) -> None:
    """The estimator end to end: what is true of the student is 0.150 J, 0.060 J above idling, and a ratio of 1.6."""
    print("\nHow often the intervals of a whole measurement hold the truth", end="")
    print(f" ({WINDOWS} rounds that differ by 2 %), {trials} trials")
    print(f"{'idle windows differ by':<34}{'gross':>10}{'above idling':>16}{'ratio':>10}{'median error of it':>22}")
    for idle_sd in (0.0, 0.01, 0.05):
        rng = np.random.default_rng(round(1000 * idle_sd))
        hits, wrong = np.zeros(3), []
        for _ in range(trials):
            student = estimate(*measured(rng, idle_sd), reference="teacher").variants["student"]
            assert student.dynamic is not None
            assert student.ratio is not None
            estimates = ((student.gross, 0.15), (student.dynamic, 0.06), (student.ratio, 1.6))
            hits += [found.ci[0] <= truth <= found.ci[1] for found, truth in estimates]
            wrong.append(abs(student.ratio.value / 1.6 - 1))
        gross, dynamic, ratio = hits / trials
        print(f"{f'{idle_sd:.0%}':<34}{gross:>10.1%}{dynamic:>16.1%}{ratio:>10.1%}{np.median(wrong):>22.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=200, help="of each line (default: %(default)s)")
    trials = parser.parse_args().trials
    begin = time.perf_counter()
    print_errors(trials)
    print_coverage(trials)
    print_whole(trials)
    print(f"\n{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
