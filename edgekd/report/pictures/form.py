"""What a picture is, and how its marks are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.report.palette import LIGHT
from edgekd.report.plain import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "o^sD*Xp8"
_LONGEST = 40  # characters of a name in a picture


@dataclass(frozen=True)
class Picture:
    """A plot of the report.

    Args:
        kind: The plot's name, that of `data-chart` in report.html.
        of: The device or the stage that it is of.
        paint: Draws it on empty axes.
    """

    kind: str
    of: str
    title: str
    paint: Callable[[Axes], None]
    size: tuple[float, float] = (6.4, 4.2)


def named(name: Any) -> str:
    """A name as a picture shows it. Matplotlib leaves out of a legend what begins with an underscore."""
    text = clean(name)
    return (text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…").lstrip("_") or "unnamed"


def point(
    axes: Axes, at: tuple[float, float], place: int, *, x: Sequence[float] | None = None,
    y: Sequence[float] | None = None, label: str | None = None, hollow: bool = False,
) -> None:  # fmt: skip
    """Draw a point with its intervals; `label` is its name in the legend."""
    colour = LIGHT[place]
    bars = [
        None if ends is None else [[abs(c - ends[0])], [abs(ends[1] - c)]] for c, ends in zip(at, (x, y), strict=True)
    ]
    axes.errorbar(
        [at[0]], [at[1]], xerr=bars[0], yerr=bars[1], fmt=MARKERS[place], color=colour, capsize=3, linewidth=1.2,
        markersize=7, markerfacecolor="white" if hollow else colour, label=None if label is None else named(label),
    )  # fmt: skip


def below(axes: Axes, **options: Any) -> None:
    """Draw the legend under the axes; a name in it is never read as a formula."""
    shown = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8, frameon=False, **options)
    for text in shown.get_texts():
        text.set_parse_math(False)
