"""What changed between two runs, and which of it is noise.

A change for the worse is measured in percentage points of accuracy or agreement, and in percent of size, of time and of
energy relative to the reference. Where both runs tell of each sample of the same test split whether it was right, it is
paired; otherwise two figures are independent; a size is known. All intervals of a comparison hold together with 95 %
confidence (Bonferroni): a run has dozens of figures, and each must not raise an alarm once in forty times.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from edgekd.report.baseline.figures import KINDS, FigureName
from edgekd.report.baseline.intervals import independent
from edgekd.report.baseline.snapshot import Device, Figure, Snapshot
from edgekd.report.statistics import CONFIDENCE, Interval, paired_difference_interval

Outcome = Literal["failed", "missing", "worse", "better", "noise", "same", "incomparable", "new"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""What may be said of a figure; the first two are what a check fails by.

failed: worse by more than is allowed, with certainty. missing: it was there and is not. worse: with certainty, but by
what is allowed or less. noise: the interval holds 0, or it is within the noise floor. same: equal to the last digit.
"""


@dataclass(frozen=True)
class Change:
    """One figure of one variant on one device.

    Args:
        before: What it was; None where it is new. `after`: what it is; None where it is missing.
        worsening: In the unit of its kind, positive for the worse. `ci`: its interval.
        allowed: The largest worsening that is no failure.
        paired: Whether it was compared sample by sample.
        why: What a reader must know: why nothing is compared, or what the comparison leaves open.
        pending: The device was not reached yet.
    """

    device: str
    variant: str
    figure: FigureName | None
    outcome: Outcome
    before: float | None = None
    after: float | None = None
    worsening: float | None = None
    ci: Interval | None = None
    allowed: float | None = None
    paired: bool = False
    why: str = ""
    pending: bool = False


@dataclass(frozen=True)
class Comparison:
    """A run against another.

    Args:
        confidence: Of each interval.
        mismatches: Why the two are not of one task on the same data; then accuracies are not compared.
        notes: What else is different and may explain a change.
    """

    changes: tuple[Change, ...]
    confidence: float
    mismatches: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Pair:
    device: str
    variant: str
    figure: FigureName
    before: Figure
    after: Figure
    allowed: float
    excuse: str = field(default="")  # why the two are not comparable


def compare(
    before: Snapshot,
    after: Snapshot,
    *,
    tolerances: Mapping[FigureName, float] | None = None,
    devices: Collection[str] = (),
) -> Comparison:
    """Compare a run with an earlier one.

    Args:
        tolerances: By figure, above those of `before`. A time or an energy on another processor is compared only where
            one of the two says how much may differ there.
        devices: Only these; empty: all of `before`.
    """
    given = {**before.tolerances, **(tolerances or {})}
    mismatches = tuple(_mismatches(before, after))
    found: list[Change | _Pair] = []
    for name, device in before.devices.items():
        if not devices or name in devices:
            found += _device(name, device, after.devices.get(name), after, given, mismatches)
    uncertain = [pair for pair in found if isinstance(pair, _Pair) and not pair.excuse and pair.before.ci]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(uncertain))
    changes = tuple(_judged(one, before, after, confidence) if isinstance(one, _Pair) else one for one in found)
    return Comparison(changes, confidence, mismatches, tuple(_notes(before, after, devices)))


def _mismatches(before: Snapshot, after: Snapshot) -> list[str]:
    pairs = (
        ("task", before.task, after.task),
        ("recipe", before.recipe, after.recipe),
        ("reference", before.reference, after.reference),
    )
    found = [f"{what}: {old or 'none'}, now {new or 'none'}" for what, old, new in pairs if old != new]
    if before.data.digest != after.data.digest:
        found.append(f"data: digest {_short(before.data.digest)}, now {_short(after.data.digest)}")
    elif before.data != after.data:
        found.append(
            f"test split: {before.data.samples or 'no'} labels of digest {_short(before.data.labels)}, now "
            f"{after.data.samples or 'no'} of {_short(after.data.labels)}"
        )
    return found


def _short(digest: str | None) -> str:
    return f"{digest[:12]}..." if digest else "none"


def _device(
    name: str,
    before: Device,
    after: Device | None,
    run: Snapshot,
    tolerances: Mapping[FigureName, float],
    mismatches: Collection[str],
) -> list[Change | _Pair]:
    if after is None:
        why = f"the run did not measure on it; it has {', '.join(run.devices)}"
        return [Change(name, "", None, "missing", why=why)]
    if after.error:
        return [Change(name, "", None, "missing", why=after.error, pending=after.pending)]
    found: list[Change | _Pair] = []
    for variant, figures in before.variants.items():
        now = after.variants.get(variant)
        if now is None:
            there = ", ".join([*after.variants, *after.failed])
            why = after.failed.get(variant) or f"the run has no such variant; it has {there}"
            found.append(Change(name, variant, None, "missing", why=why))
            continue
        for figure, old in figures.items():
            found.append(
                _figure((name, variant, figure), old, now.get(figure), (before, after), tolerances, mismatches)
            )
        found += [Change(name, variant, key, "new", after=now[key].value) for key in now if key not in figures]
    new = [variant for variant in after.variants if variant not in before.variants]
    return found + [Change(name, variant, None, "new") for variant in new]


def _figure(
    place: tuple[str, str, FigureName],
    before: Figure,
    after: Figure | None,
    devices: tuple[Device, Device],
    tolerances: Mapping[FigureName, float],
    mismatches: Collection[str],
) -> Change | _Pair:
    kind = KINDS[place[2]]
    if after is None:
        if place[2] == "energy":
            return Change(*place, "incomparable", before.value, why="energy was not measured in the run")
        return Change(*place, "missing", before.value, why=f"{kind.label} was not measured in the run")
    excuse = _excuse(place[2], *devices, tolerances)
    if mismatches and kind.unit == "pp":
        excuse = "the runs are not of one task on the same data"
    return _Pair(*place, before, after, tolerances.get(place[2], kind.tolerance), excuse)


def _excuse(figure: FigureName, before: Device, after: Device, tolerances: Mapping[FigureName, float]) -> str:
    """Why two ratios to the reference are not comparable; nothing where they are."""
    if not KINDS[figure].of_place:
        return ""
    if before.macs != after.macs:
        return f"the reference is another network ({before.macs} multiply-accumulates, now {after.macs})"
    if before.batch_size != after.batch_size:
        return f"the batch size was {before.batch_size}, now {after.batch_size}"
    if figure == "energy" and before.energy_scope != after.energy_scope:
        return f"the energy was that of the {before.energy_scope}, now of the {after.energy_scope}"
    if before.processor != after.processor and figure not in tolerances:
        return (
            f"it was measured on {before.processor}, now on {after.processor}; say how much may differ between them: "
            f"--tolerance {figure}=25"
        )
    return ""


def _judged(pair: _Pair, before: Snapshot, after: Snapshot, confidence: float) -> Change:
    kind = KINDS[pair.figure]
    facts = (pair.device, pair.variant, pair.figure)
    values = (pair.before.value, pair.after.value)
    if pair.excuse or (kind.is_ratio and min(values) <= 0):
        return Change(*facts, "incomparable", *values, why=pair.excuse or "one of the two is 0")
    old, new = (snapshot.scores(*facts) for snapshot in (before, after))
    paired = old is not None and new is not None
    if old is not None and new is not None:
        low, high = paired_difference_interval(old, new, confidence)
        worsening, ci = 100 * float((old - new).mean()), (100 * low, 100 * high)
    else:
        worsening, ci = independent(kind, pair.before, pair.after, confidence)
    floors = [snapshot.devices[pair.device].noise_floor or 0.0 for snapshot in (before, after)]
    floor = 100 * (math.prod(1 + one for one in floors) - 1) if pair.figure == "speedup" else 0.0
    outcome = _outcome(worsening, ci, floor, pair.allowed, equal=values[0] == values[1])
    return Change(*facts, outcome, *values, worsening, ci, pair.allowed, paired=paired)


def _outcome(worsening: float, ci: Interval, floor: float, allowed: float, *, equal: bool) -> Outcome:
    if equal and ci[0] <= 0 <= ci[1]:
        return "same"
    # A ratio that is as far below 1 as another is above it lies as deep in the noise.
    if ci[0] <= 0 <= ci[1] or abs(math.log1p(worsening / 100)) <= math.log1p(floor / 100):
        return "noise"
    if ci[1] < 0:
        return "better"
    return "failed" if ci[0] > allowed else "worse"


def _notes(before: Snapshot, after: Snapshot, devices: Collection[str]) -> list[str]:
    """What else is different, of what may explain a change."""
    found = []
    for name, old in before.devices.items():
        new = after.devices.get(name)
        if new is None or new.error or (devices and name not in devices):
            continue
        for what, was, now in (
            ("runtime", old.runtime, new.runtime),
            ("processor", old.processor, new.processor),
            ("recommended variant", old.recommended, new.recommended),
        ):
            if was != now:
                found.append(f"{name}: {what} {was or 'none'}, now {now or 'none'}")
    added = [name for name in after.devices if name not in before.devices]
    found += [f"{name}: measured in the later run only" for name in added]
    return found + _differing("", before.settings, after.settings) + _differing("", before.versions, after.versions)


def _differing(prefix: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [
        f"{prefix}{key}: {before.get(key, 'none')}, now {after.get(key, 'none')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]
