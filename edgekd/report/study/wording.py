"""A study in words: its answer in one sentence, the ground of each verdict, how the intervals were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report import units
from edgekd.report.plain import clean
from edgekd.report.study.comparing import BEATS, DOES_NOT_BEAT, INCONCLUSIVE

STATUS: Mapping[str, str] = {BEATS: "passed", DOES_NOT_BEAT: "failed", INCONCLUSIVE: "not_measured"}
"""Each verdict in the words that marks, colours and styles of a report have."""

_SIZES = (("parameters", "parameters"), ("macs", "MACs"))

Row = Mapping[str, Any]
NO_TEACHER = "baseline"  # the baseline's name where it is the student without a teacher


def headline(results: Mapping[str, Any]) -> str:
    """Return what the study found out, the best method's figures in it; their interval is the verdict's."""
    rows: list[Row] = [row for row in results["methods"] if row["difference_pp"] is not None]
    against = rival(results)
    if not rows:
        return f"Nothing is compared yet: no seed has both a method and {against}."
    beating = [row for row in rows if row["verdict"] == BEATS]
    if len(results["methods"]) == 1:
        return _only(rows[0], against, results["margin_pp"])
    best = (beating or rows)[0]
    name, gain = clean(best["name"]), f"{gained(best)} on {_seeds(best)}"
    total = len(results["methods"])
    if len(beating) > 1:
        how_many = f"All {total}" if len(beating) == total else f"{len(beating)} of {total}"
        return f"{how_many} methods beat {against}; the largest gain is that of {name}, {gain}."
    if beating:
        return f"1 of {total} methods beats {against}: {name}, by {gain}."
    beaten = sum(row["verdict"] == DOES_NOT_BEAT for row in results["methods"])
    if beaten == total:
        return f"None of {total} methods beats {against}; the best of them, {name}, differs by {gain}."
    return (
        f"None of {total} methods is shown to beat {against}: {beaten} do not beat it, {total - beaten} are "
        f"inconclusive; the best of them, {name}, differs by {gain}."
    )


def rival(results: Mapping[str, Any]) -> str:
    """The baseline in words."""
    name = results["baseline"]["name"]
    return "the student without a teacher" if name == NO_TEACHER else clean(name)


def gained(row: Row, sign: int = 1) -> str:
    """A difference with the interval of its verdict: "0.42 pp [0.20, 0.64]"; with sign -1, how much was lost."""
    value = f"{pp(sign * row['difference_pp'])} pp"
    if row["verdict_ci_pp"] is None:
        return value
    low, high = sorted(sign * bound for bound in row["verdict_ci_pp"])
    return f"{value} [{pp(low)}, {pp(high)}]"


def pp(value: float) -> str:
    """Percentage points with two decimals, never "-0.00"."""
    return f"{round(value, 2) + 0.0:.2f}"


def signed(value: float) -> str:
    """Percentage points as "+0.42", "-0.10", "0.00"."""
    rounded = round(value, 2)
    return f"{rounded:+.2f}" if rounded else "0.00"


def confidence(level: float) -> str:
    """A confidence as "95 %", "99.58 %"."""
    return f"{units.number(100 * level, 4).rstrip('0').rstrip('.')} %"


def grounds(results: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Each verdict's ground with the methods it holds for: (verdict, why, names)."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in results["methods"]:
        found.setdefault((row["verdict"], row["why"]), []).append(clean(row["name"]))
    return [(verdict, why, names) for (verdict, why), names in found.items()]


def how(results: Mapping[str, Any]) -> str:
    """What the figures are and what a verdict rests on."""
    compared = sum(row["verdict_ci_pp"] is not None for row in results["methods"])
    together = f", which makes {confidence(results['confidence'])} for all {compared} together" if compared > 1 else ""
    return (
        f"pp: percentage points of {results['metric']}, method - baseline, paired over seeds and {results['items']} "
        f"test items. A verdict rests on its {confidence(results['verdict_confidence'])} interval{together}."
    )


def networks(results: Mapping[str, Any]) -> str:
    """Teacher and student in one line; empty where nothing is known of them."""
    facts = []
    for role in ("teacher", "student"):
        known = results[role] or {}
        of = [clean(known["name"])] if known.get("name") not in (None, role) else []
        of += [units.percent(known["test"])] if known.get("test") is not None else []
        of += [f"{units.quantity(known[key])} {label}" for key, label in _SIZES if known.get(key)]
        facts += [f"{role}: {', '.join(of)}"] if of else []
    return "; ".join(facts)


def _only(row: Row, against: str, margin: float) -> str:
    name, gain, seeds = clean(row["name"]), gained(row), _seeds(row)
    if row["verdict"] == BEATS:
        return f"{name} beats {against} by {gain} on {seeds}."
    if row["verdict"] == INCONCLUSIVE:
        ground = (
            "so few say nothing" if row["verdict_ci_pp"] is None else f"no gain and {margin:g} pp are both possible"
        )
        return f"Inconclusive: {name} differs from {against} by {gain} on {seeds}; {ground}."
    if row["verdict_ci_pp"][1] < 0:
        return f"{name} does not beat {against}: it is worse by {gained(row, -1)} on {seeds}."
    return f"{name} does not beat {against}: {gain} on {seeds}, less than the margin of {margin:g} pp."


def _seeds(row: Row) -> str:
    count = len(row["seeds"])
    return f"{count} seeds" if count > 1 else "one seed"
