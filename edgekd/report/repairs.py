"""What was tried on the integers of a run to make them better, and what of it was kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgekd.report import units


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Each method that a stage tried, with what the validation split said of it before and after."""
    return [
        f"{stage['name']}: {' '.join(_told(one))}"
        for stage in report["stages"]
        for one in (stage.get("facts") or {}).get("improve") or ()
    ]


def _told(one: Mapping[str, Any]) -> Iterator[str]:
    (score, score_now), (loss, loss_now), change = one["score"], one["loss"], one["loss_change_95"]
    yield f"{one['method']} {'kept' if one['kept'] else 'not kept'};"
    yield f"on the validation split the loss went from {loss:.4g} to {loss_now:.4g}"
    yield f"(change {change[0]:+.2g} to {change[1]:+.2g}, 95 %)," if change else "(too few samples for an interval),"
    yield f"the score from {units.percent(score, 2)} to {units.percent(score_now, 2)}"
