"""What changed, in words: one sentence for each figure, and the cases that continuous integration counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgekd.report import units
from edgekd.report.baseline.comparing import OUTCOMES, Change, Comparison, Outcome
from edgekd.report.baseline.figures import KINDS
from edgekd.report.baseline.snapshot import Snapshot
from edgekd.report.cases import Case, Status

BAD = ("failed", "missing")
MARKS: Mapping[Outcome, str] = {
    "failed": "✗", "missing": "✗", "worse": "~", "better": "+", "noise": ".", "same": "=", "incomparable": "?",
    "new": "*",
}  # fmt: skip
MEANINGS: Mapping[Outcome, str] = {
    "failed": "worse by more than is allowed", "missing": "missing", "worse": "worse, by no more than is allowed",
    "better": "better", "noise": "noise: no difference shown", "same": "the same", "incomparable": "not compared",
    "new": "new",
}  # fmt: skip
_STATUS: Mapping[Outcome, Status] = {
    "failed": "failed", "missing": "error", "worse": "passed", "better": "passed", "noise": "passed", "same": "passed",
    "incomparable": "skipped", "new": "skipped",
}  # fmt: skip


def values(change: Change) -> tuple[str, str]:
    """The figure before and after, as it is read."""
    if change.figure is None:
        return units.ABSENT, units.ABSENT
    shown = KINDS[change.figure].shown
    before, after = (units.ABSENT if one is None else shown(one) for one in (change.before, change.after))
    return before, after


def moved(change: Change) -> str:
    """By how much it changed, and the interval: "1.40 pp worse [0.91, 1.89]"; nothing where nothing was compared."""
    if change.worsening is None or change.ci is None or change.figure is None:
        return ""
    kind = KINDS[change.figure]
    decimals = 2 if kind.unit == "pp" else 1
    sign = -1 if change.worsening < 0 else 1
    low, high = sorted(sign * bound for bound in change.ci)
    size, word = _text(abs(change.worsening), decimals), kind.worse if sign > 0 else kind.better
    interval = "" if low == high else f" [{_text(low, decimals)}, {_text(high, decimals)}]"
    return f"{size} {kind.unit} {word}{interval}"


def _text(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{decimals}f}" if math.isfinite(value) and abs(value) < 1e6 else "?"


def sentence(change: Change) -> str:
    """What a reader must know of one figure, in one line."""
    before, after = values(change)
    head = f"{before} -> {after}"
    if change.outcome == "missing":
        return change.why
    if change.outcome == "new":
        return "not in the baseline" if change.after is None else f"not in the baseline: {after}"
    if change.outcome == "incomparable":
        return f"{head}, not compared: {change.why}"
    return f"{head}, the same" if change.outcome == "same" else f"{head}: {moved(change)}{_ground(change)}"


def _ground(change: Change) -> str:
    """How it was compared, and what follows."""
    how = ", sample by sample" if change.paired else ""
    if change.outcome == "noise":
        return f"{how}: no difference shown{_open(change)}"
    if change.outcome == "better":
        return f"{how}: to keep it, write the baseline anew"
    return f"{how}, {_allowed(change)} allowed"


def _open(change: Change) -> str:
    """What noise may hide: said where it is more than is allowed."""
    if change.ci is None or change.allowed is None or change.figure is None or change.ci[1] <= change.allowed:
        return ""
    kind = KINDS[change.figure]
    largest = _text(change.ci[1], 2 if kind.unit == "pp" else 1)
    return f", and {largest} {kind.unit} {kind.worse} not excluded"


def _allowed(change: Change) -> str:
    assert change.figure is not None  # only a figure is worse
    return f"{change.allowed:g} {KINDS[change.figure].unit}"


def name(change: Change) -> str:
    """The change as the name of a case: "int8: accuracy"."""
    parts = (change.variant, KINDS[change.figure].label if change.figure else "")
    return ": ".join(part for part in parts if part) or "measured"


def cases(comparison: Comparison) -> list[Case]:
    """Every figure as a case, its group being the device."""
    detail = "\n".join(["If the change is meant, write the baseline anew. Also different:", *comparison.notes])
    return [
        Case(name(one), one.device, _STATUS[one.outcome], sentence(one), detail if one.outcome in BAD else "")
        for one in comparison.changes
    ]


def headline(comparison: Comparison) -> str:
    """The count of each outcome: "2 worse by more than is allowed, 9 noise: no difference shown"."""
    found = [change.outcome for change in comparison.changes]
    return ", ".join(f"{found.count(one)} {MEANINGS[one]}" for one in OUTCOMES if one in found) or "nothing to compare"


def kept(snapshot: Snapshot) -> list[str]:
    """What a baseline holds, a line for each variant: "cpu  int8  accuracy 98.50 %, size 30.0 kB"."""
    lines = []
    for device, found in snapshot.devices.items():
        for variant, figures in found.variants.items():
            told = (f"{KINDS[name].label} {KINDS[name].shown(figure.value)}" for name, figure in figures.items())
            lines.append(f"{device}  {variant}  {', '.join(told)}")
    return lines + [f"allowed: {key} {value:g} {KINDS[key].unit}" for key, value in snapshot.tolerances.items()]


def by_importance(changes: Sequence[Change]) -> list[Change]:
    """The changes of each device in the order in which a reader wants them, what failed first."""
    devices = list(dict.fromkeys(change.device for change in changes))
    return sorted(changes, key=lambda change: (devices.index(change.device), OUTCOMES.index(change.outcome)))
