"""Where everything of a forest plot stands: plain numbers, which the template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size

from edgekd.report.plain import clean
from edgekd.report.study.wording import STATUS, gained, signed

_AXIS = 46  # height of the axis, its labels and its title
_STRAY = 6.0  # an interval that reaches this many times further than the middle one is cut, with an arrow
_ROOM = 0.04  # of the axis, left free at both ends


@dataclass(frozen=True)
class Layout:
    """Sizes in SVG units: beside each interval its name and figures, or above it where the page is narrow."""

    name: str
    width: int
    left: int
    right: int
    row: int
    line: int  # of the interval, below the top of its row
    label: int  # baseline of the texts, below the top of the row
    figure: int  # where the figures begin
    cells: int  # of a name; a longer one is cut
    ticks: int


WIDE = Layout("wide", width=960, left=190, right=640, row=40, line=17, label=21, figure=656, cells=24, ticks=8)
NARROW = Layout("narrow", width=340, left=8, right=332, row=66, line=42, label=14, figure=8, cells=26, ticks=5)


@dataclass(frozen=True)
class Axis:
    """The axis of the differences: from percentage points to SVG units."""

    low: float
    high: float
    left: int
    right: int

    def at(self, value: float) -> float:
        """The place of a value; what lies off the axis stands at its end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.left + share * (self.right - self.left), 1)

    def span(self, ci: Sequence[float] | None) -> tuple[float, float] | None:
        """The places of an interval's ends; None where all of it lies off the axis."""
        if ci is None or ci[1] < self.low or ci[0] > self.high:
            return None
        return self.at(ci[0]), self.at(ci[1])

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Places and labels of round values, at most so many."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) <= most)
        decimals = max(0, -math.floor(math.log10(step * 1.0001)))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [(self.at(k * step), f"{k * step + 0.0:+.{decimals}f}" if k else "0") for k in range(first, last + 1)]


def plot(results: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Return all that the template draws."""
    rows = results["methods"]
    low, high = _domain(rows, results["margin_pp"])
    axis = Axis(low, high, layout.left, layout.right)
    return {
        "layout": layout,
        "height": len(rows) * layout.row + _AXIS,
        "bottom": len(rows) * layout.row,
        "rows": [_row(row, axis, layout, index * layout.row) for index, row in enumerate(rows)],
        "ticks": axis.ticks(layout.ticks),
        "zero": axis.at(0),
        "margin": axis.at(results["margin_pp"]),
    }


def _reach(row: Mapping[str, Any]) -> list[float]:
    return [*row["by_seed_pp"], *(row["ci_pp"] or ()), *(row["verdict_ci_pp"] or ())]


def _domain(rows: Sequence[Mapping[str, Any]], margin: float) -> tuple[float, float]:
    """The ends of the axis: all that is drawn, 0 and the margin; one method far off does not flatten the others."""
    reaches = [_reach(row) for row in rows if _reach(row)]
    furthest = sorted(max(map(abs, reach)) for reach in reaches)
    limit = max(_STRAY * furthest[len(furthest) // 2], 2 * margin) if furthest else 0.0
    values = [value for reach in reaches if max(map(abs, reach)) <= limit for value in reach]
    least = max(margin, 0.05)
    low, high = min([-least, *values]), max([2 * least, *values])
    room = _ROOM * (high - low)
    return low - room, high + room


def _row(row: Mapping[str, Any], axis: Axis, layout: Layout, top: int) -> dict[str, Any]:
    name = clean(row["name"])
    point, reach = row["difference_pp"], _reach(row)
    return {
        "name": name,
        "short": name if cell_len(name) <= layout.cells else f"{set_cell_size(name, layout.cells - 1).rstrip()}…",
        "verdict": row["verdict"],
        "status": STATUS[row["verdict"]],
        "figure": gained(row) if point is not None else "not compared",
        "y": top + layout.line,
        "text_y": top + layout.label,
        "point": None if point is None or not axis.low <= point <= axis.high else axis.at(point),
        "ci": axis.span(row["ci_pp"]),
        "verdict_ci": axis.span(row["verdict_ci_pp"]),
        "cut_low": any(value < axis.low for value in reach),
        "cut_high": any(value > axis.high for value in reach),
        "seeds": [
            {"x": axis.at(value), "label": f"seed {seed}: {signed(value)} pp"}
            for seed, value in zip(row["seeds"], row["by_seed_pp"], strict=True)
            if axis.low <= value <= axis.high
        ],
    }
