"""One thing that a look at an installation found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        area: what it belongs to, such as "packages".
        state: "ok"; "note": it works, and is worth knowing; "missing": optional and not there; "broken": it is there,
            or must be, and does not work.
        told: what was found.
        gives: what it is for.
        mend: how to get or mend it.
    """

    area: str
    name: str
    state: State
    told: str
    gives: str | None = None
    mend: str | None = None
