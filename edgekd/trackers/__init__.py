"""Trackers: one file each, whose name is its name in YAML, and that of the package and the extra it needs.

A file has `open_board(address, run)`, which gives a `Board`. It runs in a process of its own (`edgekd.tracking`): what
it raises ends that process, and is told with the run's result.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from edgekd import artifact
from edgekd.artifact import Artifact
from edgekd.report.learning import lessons


@dataclass(frozen=True)
class Run:
    """A run as a tracker knows it.

    Args:
        store: the folder of the store.
        log: of the run, while it works.
        recipe: every key of the recipe with its value.
        signs: the file that a tracker touches while it works; None where nobody waits for it.
    """

    run_id: str
    store: Path
    log: Path
    recipe: Mapping[str, Any]
    signs: Path | None = None

    def sign(self) -> None:
        """Give a sign of life: whoever does for long is waited for."""
        if self.signs is not None:
            os.utime(self.signs)

    def artifact(self, line: Mapping[str, Any]) -> Artifact:
        """Return what a step made, of which a line of the log tells."""
        return artifact.read(self.store / "artifacts" / line["artifact"])


class Board(Protocol):
    """Where a run is shown."""

    def hear(self, event: str, line: Mapping[str, Any]) -> None:
        """Take a line of the run's log (`edgekd.log`)."""

    def end(self, folder: Path | None) -> None:
        """Take the folder of the finished run, complete but for its place; None where it failed or was killed."""


class Told:
    """Which points of curves were told: of a training that was seen by epoch, its step has all of them once more."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str, int]] = set()

    def new(self, step: str, points: Iterable[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
        """Return those of a step's points that were not given before."""
        found = {(step, name, epoch): (name, epoch, value) for name, epoch, value in points}
        new = [point for key, point in found.items() if key not in self._known]
        self._known |= found.keys()
        return new


def curves(step: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    """Yield name, epoch and value of whatever a step's training kept by epoch, such as "validation" and "kd/share"."""
    for lesson in lessons({"stages": [{"name": step, "facts": facts}]}):
        terms = {f"{name}/{kind}": values for name, kinds in lesson.terms.items() for kind, values in kinds.items()}
        for name, values in {**lesson.curves, **terms}.items():
            points = zip(lesson.epochs, values, strict=False)
            yield from ((name, int(epoch), float(value)) for epoch, value in points if value is not None)


def of_epoch(line: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    """Yield the same of one epoch, as the log tells it."""
    known = ("time", "elapsed_s", "level", "event", "step", "epoch")
    yield from ((name, int(line["epoch"]), float(value)) for name, value in line.items() if name not in known)


def seconds(line: Mapping[str, Any]) -> float:
    """Return when a line was written, in seconds since 1970."""
    return datetime.fromisoformat(line["time"]).timestamp()
