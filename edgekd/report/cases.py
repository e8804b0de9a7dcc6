"""What was checked, one case each, as continuous integration counts it: `junit` and `markdown` write them down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal["passed", "failed", "skipped", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Case:
    """One thing that was checked.

    Args:
        name: What, such as "int8: accuracy"; no two of a group should be equal.
        group: Of what, such as a device or a model file.
        status: "failed": it was looked at and is not as it must be. "error": it could not be looked at, and had to be.
            "skipped": it was not looked at, and need not be.
        message: One line: the figures that decided, and what to do.
        detail: More lines, for whoever wants to know; as plain text.
    """

    name: str
    group: str
    status: Status
    message: str = ""
    detail: str = ""


def counted(cases: Iterable[Case]) -> dict[Status, int]:
    """How many cases of each status there are, 0 included."""
    found = [case.status for case in cases]
    return {status: found.count(status) for status in STATUSES}


def grouped(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """The cases of each group, in the order in which groups and cases were first named."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.group, []).append(case)
    return found
