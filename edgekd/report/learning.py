"""How the networks of a run learned: curves, the terms of the loss, and how the teacher was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("loss", "share", "gradient_norm")


@dataclass(frozen=True)
class Lesson:
    """The training of one stage, by epoch.

    Args:
        curves: what it kept, by name; without the epoch.
        terms: of a loss of several terms, by name, its values by kind (loss, share, gradient_norm).
    """

    stage: str
    epochs: Sequence[Any]
    curves: Mapping[str, Sequence[Any]]
    terms: Mapping[str, Mapping[str, Sequence[Any]]]

    @property
    def has_norms(self) -> bool:
        """Whether some term's gradient has a norm that a logarithmic axis can show."""
        return any(value for kinds in self.terms.values() for value in kinds["gradient_norm"])

    @property
    def columns(self) -> list[tuple[str, Sequence[Any]]]:
        """Every number of the plots as columns of a table: head and one value per epoch."""
        curves = [(name.replace("_", " "), values) for name, values in self.curves.items()]
        terms = [
            (f"{name}: {kind.replace('_', ' ')}", kinds[kind]) for name, kinds in self.terms.items() for kind in KINDS
        ]
        return curves + terms

    @property
    def rows(self) -> Iterator[tuple[Any, list[Any]]]:
        """The rows of that table: the epoch, and a value or None per column."""
        columns = [values for _, values in self.columns]
        for index, epoch in enumerate(self.epochs):
            yield epoch, [values[index] if index < len(values) else None for values in columns]


def lessons(report: Mapping[str, Any]) -> list[Lesson]:
    """The training of every stage that kept curves or terms."""
    found = []
    for stage in report["stages"]:
        facts = stage.get("facts") or {}
        if "chosen" in facts:  # a copy of the chosen teacher, whose own stage shows its training
            continue
        kept = facts.get("curves") or {}
        curves = {name: values for name, values in kept.items() if name != "epoch" and values}
        if not any(name != "learning_rate" for name in curves):
            curves = {}
        terms = {
            name: {kind: kinds.get(kind) or [] for kind in KINDS} for name, kinds in (facts.get("terms") or {}).items()
        }
        if curves or terms:
            series = [*curves.values(), *(kinds["share"] for kinds in terms.values())]
            longest = max(len(values) for values in series)
            found.append(Lesson(stage["name"], kept.get("epoch") or list(range(1, longest + 1)), curves, terms))
    return found


@dataclass(frozen=True)
class Choice:
    """How a teacher was chosen by short trials.

    Args:
        epochs: the length of the trials of each round.
        rows: by candidate, what is known of it ("validation", "parameters", "macs", "calibration_error", each may be
            None) and the student's validation score after each round, None where it was no longer tried.
    """

    chosen: str
    epochs: tuple[int, ...]
    rows: Mapping[str, tuple[Mapping[str, Any], tuple[float | None, ...]]]

    @property
    def sentence(self) -> str:
        """The choice in words."""
        return f"teacher: {self.chosen}, chosen from {len(self.rows)} by short trials"


def choice(report: Mapping[str, Any]) -> Choice | None:
    """How the run chose its teacher, or None where the recipe named it."""
    facts = next((stage["facts"] for stage in report["stages"] if "chosen" in (stage.get("facts") or {})), None)
    if facts is None:
        return None
    known = ("validation", "parameters", "macs", "calibration_error")
    rows = {
        name: (
            {key: evidence.get(key) for key in known},
            tuple(trials["validation"].get(name) for trials in facts["rounds"]),
        )
        for name, evidence in facts["candidates"].items()
    }
    return Choice(facts["chosen"], tuple(trials["epochs"] for trials in facts["rounds"]), rows)
