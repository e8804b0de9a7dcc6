"""Numbers as a person reads them: three significant digits and the unit that fits. Bytes are decimal (1 MB = 1e6)."""

from __future__ import annotations

from collections.abc import Sequence

ABSENT = "–"


def number(value: float, digits: int = 3) -> str:
    """A number to some significant digits, never in exponent form: 1234.5 -> "1234", 0.01234 -> "0.0123"."""
    return f"{value:.{decimals_of(value, digits)}f}" if value else "0"


def decimals_of(value: float, digits: int = 3) -> int:
    """How many decimals show a number to some significant digits."""
    if value == 0:
        return 0
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # after rounding: 9.996 is 10.0
    return max(0, digits - 1 - exponent)


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    """The value in the largest unit that it reaches, the smallest one if it reaches none."""
    # 999.6 of a unit would print as 1000: it belongs to the next one.
    scale, unit = next(((scale, unit) for scale, unit in units if abs(value) >= 0.9995 * scale), units[-1])
    return f"{number(value / scale)} {unit}".rstrip()


def duration(ns: float) -> str:
    """Nanoseconds as "871 ns", "38.2 µs", "1.24 ms", "2.10 s"."""
    return _scaled(ns, ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")))


def size(count: float) -> str:
    """Bytes as "812 B", "45.1 kB", "2.14 MB"."""
    return _scaled(count, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")))


def quantity(count: float) -> str:
    """A count as "812", "45.1 k", "41.2 M", "1.80 G"."""
    return _scaled(count, ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))


def energy(joules: float) -> str:
    """Joules as "1.20 J", "3.41 mJ", "870 µJ"."""
    return _scaled(joules, ((1, "J"), (1e-3, "mJ"), (1e-6, "µJ")))


def power(watts: float) -> str:
    """Watts as "12.3 W", "40.0 mW", "870 µW"."""
    return _scaled(watts, ((1, "W"), (1e-3, "mW"), (1e-6, "µW")))


def percent(fraction: float, decimals: int = 2) -> str:
    """A fraction as "98.61 %"."""
    return f"{100 * fraction:.{decimals}f} %"


def interval(ci: Sequence[float], scale: float = 1.0, decimals: int = 2) -> str:
    """An interval as "[0.12, 0.98]"."""
    return f"[{ci[0] * scale:.{decimals}f}, {ci[1] * scale:.{decimals}f}]"


def times(ratio: float) -> str:
    """A ratio as "0.85x", "5.31x", "33.3x", "1200x"."""
    return f"{ratio:.{min(2, decimals_of(ratio))}f}x"
