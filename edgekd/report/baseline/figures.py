"""The figures that two runs are compared by, and by how much each may become worse.

None is an absolute time or an absolute energy: those belong to one machine. Both are taken as ratios to the reference
that was measured beside them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgekd.document import suggest
from edgekd.errors import UsageError
from edgekd.report import units

FigureName = Literal["accuracy", "agreement", "size", "speedup", "energy"]


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Args:
        label: As messages call it.
        unit: Of a change: "pp" where figures are proportions and their difference counts, "%" where it is their ratio.
        more_is_better: Whether a larger figure is a better one.
        tolerance: By how much it may become worse, in the unit, where nobody says otherwise.
        worse: What a change for the worse is, such as "larger".
        better: The opposite.
        shown: The figure as text.
        of_place: Whether it depends on the processor it was measured on.
    """

    label: str
    unit: str
    more_is_better: bool
    tolerance: float
    worse: str
    better: str
    shown: Callable[[float], str]
    of_place: bool = False

    @property
    def is_ratio(self) -> bool:
        """Whether the ratio of two such figures is what counts, not their difference."""
        return self.unit == "%"


# Size: another release of an exporter writes a few bytes more. Time and energy: the same files measured again on
# another day differ by a few percent, which no interval of one run knows.
KINDS: Mapping[FigureName, Kind] = {
    "accuracy": Kind("accuracy", "pp", True, 0.0, "worse", "better", units.percent),
    "agreement": Kind("agreement", "pp", True, 0.0, "less", "more", units.percent),
    "size": Kind("size", "%", False, 1.0, "larger", "smaller", units.size),
    "speedup": Kind("speed-up", "%", True, 5.0, "more time", "less time", units.times, of_place=True),
    "energy": Kind("energy ratio", "%", True, 5.0, "more energy", "less energy", units.times, of_place=True),
}


def parse_tolerances(texts: Iterable[str]) -> dict[FigureName, float]:
    """Read what `--tolerance` says: "accuracy=0.5", "speedup=10%".

    Raises:
        UsageError: with what can be said.
    """
    found: dict[FigureName, float] = {}
    names = {str(name): name for name in KINDS}
    for text in texts:
        given, equals, value = (part.strip() for part in text.partition("="))
        name = names.get(given)
        if not equals or name is None:
            near = suggest(given, KINDS)
            raise UsageError(
                f"--tolerance {text}: must be FIGURE=AMOUNT, such as accuracy=0.5 (percentage points) or speedup=10 "
                f"(percent); figures are {', '.join(KINDS)}{near}"
            )
        number = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(pp|%)?", value)
        if number is None or number[2] not in (None, KINDS[name].unit) or not math.isfinite(float(number[1])):
            raise UsageError(f"--tolerance {text}: must be a number of {KINDS[name].unit}, 0 or more, such as {name}=2")
        found[name] = float(number[1])
    return found
