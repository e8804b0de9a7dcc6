"""Recall by class on the test split: what an accuracy over all classes hides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.report.statistics import FloatArray, Interval, is_binary, wilson_interval

Variants = Mapping[str, Mapping[str, Any]]

MUCH_PP = 20  # of recall lost: more is said at once
_NAMED = 5  # classes that are named; of more, how many
_ROWS = 100  # classes that the page shows; of more, those that lost most


def by_class(scores: FloatArray | None, targets: NDArray[Any] | None, labels: Sequence[str]) -> dict[str, Any] | None:
    """Return {"labels", "n", "recall"}, one value per class each; the recall of a class without samples is None.

    None where recall has no meaning: no scores, scores that are not right or wrong, targets that are no class indices.

    Args:
        scores: 1 where the sample's class was recognized, else 0 [N].
        targets: the class indices [N].
        labels: the names of the classes; none where the targets are no class indices.
    """
    if scores is None or targets is None or not labels or not is_binary(scores):
        return None
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        return None
    if len(targets) == 0 or targets.min() < 0 or targets.max() >= len(labels):
        return None
    counts = np.bincount(targets, minlength=len(labels)).tolist()
    right = np.bincount(targets, weights=scores, minlength=len(labels)).tolist()
    recall = [hits / n if n else None for hits, n in zip(right, counts, strict=True)]
    return {"labels": list(labels), "n": counts, "recall": recall}


def fallen(variants: Variants, reference: str | None) -> str | None:
    """One sentence on the classes whose recall is more than 20 pp below the reference's, the worst first, or None."""
    found: dict[str, list[tuple[float, str]]] = {}
    for name, changes in _changes(variants, reference).items():
        for label, change in zip(variants[name]["by_class"]["labels"], changes, strict=True):
            if change is not None and change < -MUCH_PP:
                found.setdefault(label, []).append((change, name))
    if not found:
        return None
    worst = sorted(found.items(), key=lambda item: min(item[1]))
    told = [
        f"{label} ({', '.join(f'{name} {-change:.1f} pp' for change, name in sorted(falls))})"
        for label, falls in worst[:_NAMED]
    ]
    more = f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
    return f"recall of a class falls by more than {MUCH_PP} pp against {reference}: {', '.join(told)}{more}"


def _changes(variants: Variants, reference: str | None) -> dict[str, list[float | None]]:
    """By variant, what its recall of each class is above the reference's, in pp."""
    base = variants[reference]["by_class"] if reference is not None and reference in variants else None
    if base is None:
        return {}
    return {
        name: [
            # Of counts, so that one sample of five is 20 pp and not 20.000000000000004.
            None if a is None or b is None else 100 * round((b - a) * n) / n
            for a, b, n in zip(base["recall"], variant["by_class"]["recall"], base["n"], strict=True)
        ]
        for name, variant in variants.items()
        if name != reference and variant["by_class"] is not None
    }


def _lowest(changes: Sequence[float | None]) -> int | None:
    """The index of the largest fall, the first of equals; None where nothing fell."""
    falls = [change or 0.0 for change in changes]
    return falls.index(min(falls)) if min(falls) < 0 else None


@dataclass(frozen=True)
class Cell:
    """The recall of one class by one variant: None without samples; `worst` where the variant lost most."""

    recall: float | None
    ci: Interval | None
    change_pp: float | None
    worst: bool


@dataclass(frozen=True)
class Table:
    """Classes as rows, variants as columns: (label, how many samples, a cell per variant); `total` classes in all."""

    variants: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Cell, ...]], ...]
    total: int


def table(device: Mapping[str, Any], reference: str | None) -> Table | None:
    """Return the table of a device, or None where no variant has classes."""
    variants = {name: found for name, found in device["variants"].items() if found["by_class"] is not None}
    if not variants:
        return None
    changes = _changes(variants, reference)
    worst = {name: _lowest(of) for name, of in changes.items()}
    first = next(iter(variants.values()))["by_class"]
    rows = []
    for index, (label, n) in enumerate(zip(first["labels"], first["n"], strict=True)):
        cells = []
        for name, variant in variants.items():
            recall = variant["by_class"]["recall"][index]
            ci = None if recall is None else wilson_interval(round(recall * n), n)
            change = changes[name][index] if name in changes else None
            cells.append(Cell(recall, ci, change, worst.get(name) == index))
        rows.append((label, n, tuple(cells)))
    if len(rows) > _ROWS:
        rows.sort(key=lambda row: min((cell.change_pp or 0.0 for cell in row[2]), default=0.0))
    return Table(tuple(variants), tuple(rows[:_ROWS]), len(rows))
