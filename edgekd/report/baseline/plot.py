"""A picture of what changed: for each kind of figure the changes with their intervals, noise in grey."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.report.baseline.comparing import Change, Comparison, Outcome
from edgekd.report.baseline.figures import KINDS, FigureName
from edgekd.report.drawing import save
from edgekd.report.plain import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: Mapping[Outcome, str] = {"failed": "#b3261e", "worse": "#b3261e", "better": "#1b7f3b"}
_NOISE = "#8a8f98"  # no neutral grey: it is told from the shades of the axes
_MARKERS = "osD^vP"
_ROW = 0.32  # inches
_LONGEST = 40  # characters of a name


def draw(compared: Mapping[str, Comparison], path: Path) -> None:
    """Write the picture of one run or several against the first; its kind is that of the file's name.

    Args:
        compared: By the name of the later run.
    """
    kinds: list[FigureName] = [kind for kind in KINDS if any(_of(kind, one) for one in compared.values())]
    rows = {kind: _rows(kind, compared) for kind in kinds}
    heights = [max(1, len(found)) * _ROW * max(1, len(compared) / 2) + 0.3 for found in rows.values()] or [1.0]

    def paint(figure: Figure) -> None:
        figure.suptitle("what changed: grey is noise, red worse, green better", fontsize=9)
        axes = figure.subplots(max(1, len(kinds)), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for kind, one in zip(kinds, axes, strict=False):
            _panel(one, kind, rows[kind], compared)
        if not kinds:
            axes[0].set_title("nothing to compare", parse_math=False)

    save(paint, (8, sum(heights) + 0.6 * len(heights) + 0.5), [path])


def _of(kind: FigureName, comparison: Comparison) -> list[Change]:
    return [one for one in comparison.changes if one.figure == kind and one.worsening is not None]


def _rows(kind: FigureName, compared: Mapping[str, Comparison]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((c.device, c.variant) for one in compared.values() for c in _of(kind, one)))


def _panel(axes: Axes, kind: FigureName, rows: Sequence[tuple[str, str]], compared: Mapping[str, Comparison]) -> None:
    step = 0.6 / max(1, len(compared))
    for index, (run, comparison) in enumerate(compared.items()):
        marker, offset = _MARKERS[index % len(_MARKERS)], (index - (len(compared) - 1) / 2) * step
        axes.plot([], [], marker, color=_NOISE, label=clean(run)[:_LONGEST])
        for change in _of(kind, comparison):
            _interval(axes, change, rows.index((change.device, change.variant)) + offset, marker)
    facts = KINDS[kind]
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_title(f"{facts.label}: change in {facts.unit}; right of 0 is {facts.worse}", loc="left", fontsize=9)
    devices = {device for device, _ in rows}
    labels = [clean(f"{device} {variant}" if len(devices) > 1 else variant)[:_LONGEST] for device, variant in rows]
    axes.set_yticks(range(len(rows)), labels, parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    if len(compared) > 1:
        for text in axes.legend(fontsize=8, loc="best").get_texts():
            text.set_parse_math(False)


def _interval(axes: Axes, change: Change, y: float, marker: str) -> None:
    assert change.worsening is not None  # only such are drawn
    assert change.ci is not None
    colour = _COLOURS.get(change.outcome, _NOISE)
    low, high = (bound if math.isfinite(bound) else change.worsening for bound in change.ci)
    axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot([change.worsening], [y], marker, color=colour, markersize=5)
