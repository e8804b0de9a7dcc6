"""How a network learned: its curves, and the terms of its loss."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekd.report import units
from edgekd.report.learning import Lesson
from edgekd.report.palette import LIGHT
from edgekd.report.pictures.form import MARKERS, Picture, below, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHARE = re.compile(r"accuracy|agreement|^validation$")  # "validation" is the task's score
_MARKED = 40  # epochs; a longer curve has no marks


def pictures(lesson: Lesson) -> Iterator[Picture]:
    """Yield the plots that a stage has figures for."""
    if lesson.curves:
        yield Picture("curve", lesson.stage, "by epoch", partial(_curve, lesson))
    if lesson.terms:
        yield Picture("shares", lesson.stage, "each term's share of the loss", partial(_shares, lesson))
    if lesson.has_norms:
        yield Picture("norms", lesson.stage, "gradient norm of each weighted term", partial(_norms, lesson))


def _line(axes: Axes, lesson: Lesson, name: str, values: Sequence[float | None], index: int) -> Any:
    known = [float("nan") if value is None else value for value in values]
    marker = MARKERS[index % len(MARKERS)] if len(known) <= _MARKED else None
    (line,) = axes.plot(
        lesson.epochs[: len(known)], known, marker=marker, markersize=4, linewidth=1.6, color=LIGHT[index % len(LIGHT)],
        label=named(name),
    )  # fmt: skip
    return line


def _epochs(axes: Axes, lesson: Lesson) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes.set_xlabel("epoch")
    axes.set_xlim(min(lesson.epochs) - 0.6, max(lesson.epochs) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _curve(lesson: Lesson, axes: Axes) -> None:
    shown = {name: values for name, values in lesson.curves.items() if name != "learning_rate"}
    shares = [name for name in shown if _SHARE.search(name)]
    both = 0 < len(shares) < len(shown)
    right = axes.twinx() if both else axes
    lines = [
        _line(right if name in shares else axes, lesson, name.replace("_", " "), values, index)
        for index, (name, values) in enumerate(shown.items(), start=1)
    ]
    if both:
        right.spines["top"].set_visible(False)
        axes.set_ylabel("loss")
    if shares:
        right.yaxis.set_major_formatter(lambda value, _: units.percent(value, 1))
    _epochs(axes, lesson)
    below(axes, handles=lines)


def _shares(lesson: Lesson, axes: Axes) -> None:
    bottom = [0.0] * len(lesson.epochs)
    for index, (name, kinds) in enumerate(lesson.terms.items(), start=1):
        share = [value or 0.0 for value in kinds["share"]]
        axes.bar(
            lesson.epochs[: len(share)], share, 0.85, bottom[: len(share)], color=LIGHT[index % len(LIGHT)],
            label=named(name),
        )  # fmt: skip
        bottom = [below + value for below, value in zip(bottom, share, strict=False)]
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: units.percent(value, 0))
    axes.set_ylabel("share of the loss")
    _epochs(axes, lesson)
    below(axes)


def _norms(lesson: Lesson, axes: Axes) -> None:
    for index, (name, kinds) in enumerate(lesson.terms.items(), start=1):
        _line(axes, lesson, name, [value or None for value in kinds["gradient_norm"]], index)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("gradient norm")
    _epochs(axes, lesson)
    below(axes)
