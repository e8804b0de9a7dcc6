"""Plots of a search: its history, and for each place that was varied the scores over its values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgekd.space import Range
from edgekd.tuning.variations import short

HISTORY, SLICES = "history.svg", "slices.svg"
_DONE, _STOPPED, _FIRST = "#2563eb", "#9ca3af", "#d97706"
_COLUMNS = 3
_LABEL = 22


def write(folder: Path, found: Mapping[str, Any], space: Mapping[str, Range | tuple[Any, ...]]) -> None:
    """Write the plots into a search's folder."""
    history(found).savefig(folder / HISTORY, bbox_inches="tight")
    slices(found, space).savefig(folder / SLICES, bbox_inches="tight")


def history(found: Mapping[str, Any]) -> Figure:
    """Return the score of each trial, and the best one so far."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    done = [row for row in found["trials"] if row["validation"] is not None]
    numbers, scores = [row["number"] for row in done], [row["validation"] for row in done]
    best = np.maximum.accumulate(scores)
    axes.step(numbers, best, where="post", color=_DONE, linewidth=1.5, label="best so far")
    axes.scatter(numbers, scores, color=_DONE, s=18, label="trained to the end")
    stopped = [(row["number"], max(row["epochs"].values())) for row in found["trials"]
               if row["state"] == "stopped" and row["epochs"]]  # fmt: skip
    if stopped:
        at, last = zip(*stopped, strict=True)
        axes.scatter(at, last, color=_STOPPED, s=18, marker="x", label="stopped early")
    _reference(axes, found)
    axes.set(xlabel="trial", ylabel=f"validation {found['metric']}", title=f"{found['recipe']}: history")
    axes.legend(loc="lower right", fontsize="small")
    return figure


def slices(found: Mapping[str, Any], space: Mapping[str, Range | tuple[Any, ...]]) -> Figure:
    """Return the scores over the values of each place."""
    rows = -(-len(space) // _COLUMNS)
    columns = min(len(space), _COLUMNS)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (path, values) in zip(grid.flat, space.items(), strict=False):
        points = [(row["values"][path], row["validation"]) for row in found["trials"]
                  if row["validation"] is not None and path in row["values"]]  # fmt: skip
        _slice(axes, points, values)
        _reference(axes, found)
        axes.set_title(path, fontsize="medium")
    for axes in grid.flat[len(space) :]:
        axes.remove()
    figure.supylabel(f"validation {found['metric']}", fontsize="medium")
    return figure


def _slice(axes: Axes, points: list[tuple[Any, float]], values: Range | tuple[Any, ...]) -> None:
    scores = [score for _, score in points]
    if isinstance(values, Range):
        axes.scatter([value for value, _ in points], scores, color=_DONE, s=18)
        if values.log:
            axes.set_xscale("log")
        return
    places = [values.index(value) for value, _ in points]
    axes.scatter(places, scores, color=_DONE, s=18)
    axes.set_xticks(range(len(values)), [short(value, _LABEL) for value in values], rotation=20, fontsize="small")


def _reference(axes: Axes, found: Mapping[str, Any]) -> None:
    """Draw the score of the recipe as it is."""
    score = next((row["validation"] for row in found["trials"] if row["as_it_is"]), None)
    if score is not None:
        axes.axhline(score, color=_FIRST, linestyle="--", linewidth=1, label="the recipe as it is")
