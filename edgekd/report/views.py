"""What report.html shows beyond single figures: steps of the pipeline, device state side by side, what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekd.report import roles, units
from edgekd.report.latency import comparison
from edgekd.report.precisions import made_from
from edgekd.report.simulation import MARK, energy_simulated

Variant = Mapping[str, Any]
_LONGEST = 400  # characters of a fact


@dataclass(frozen=True)
class Figure:
    """A column of the variants' table.

    Args:
        head: Its header.
        key: Where the reason of its absence is kept.
        value: The number that the column sorts by; None when it was not measured.
        text: How the number is shown.
        ci: Its interval, as it is shown.
    """

    head: str
    key: str
    value: Callable[[Variant], float | None]
    text: Callable[[float], str]
    ci: Callable[[Variant], str | None] = lambda _: None


def _latency(key: str) -> Callable[[Variant], float | None]:
    return lambda v: v["latency_ns"][key] if v["latency_ns"] else None


def _plain(key: str) -> Callable[[Variant], float | None]:
    return lambda v: v[key]


def _between(ci: Sequence[float] | None, text: Callable[[float], str]) -> str | None:
    """An interval in the figure's own format; none for one without width (the reference against itself)."""
    if ci is None or ci[0] == ci[1]:
        return None
    low, high = text(ci[0]), text(ci[1])
    unit = high.partition(" ")[2]
    return f"{low.removesuffix(f' {unit}') if unit else low} to {high}"


def _pp(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # + 0.0: never "-0.00"


def _rate(per_second: float) -> str:
    return f"{units.quantity(per_second)}/s"


FIGURES = (
    Figure(
        "Accuracy", "accuracy", _plain("accuracy"), units.percent,
        lambda v: _between(v["accuracy_ci"], units.percent),
    ),
    Figure("Drop, pp", "drop_pp", _plain("drop_pp"), _pp, lambda v: _between(v["drop_pp_ci"], _pp)),
    Figure(
        "Agreement", "agreement_with_teacher", _plain("agreement_with_teacher"), units.percent,
        lambda v: _between(v["agreement_ci"], units.percent),
    ),
    Figure(
        "Latency p50", "latency_ns", _latency("p50"), units.duration,
        lambda v: _between(v["latency_ns"]["p50_ci"], units.duration) if v["latency_ns"] else None,
    ),
    Figure("GPU p50", "gpu_ns", lambda v: v["gpu_ns"]["p50"] if v["gpu_ns"] else None, units.duration),
    Figure("p90", "latency_ns", _latency("p90"), units.duration),
    Figure("p99", "latency_ns", _latency("p99"), units.duration),
    Figure("Speed-up", "speedup", _plain("speedup"), units.times, lambda v: _between(v["speedup_ci"], units.times)),
    Figure("Size", "size_bytes", _plain("size_bytes"), units.size),
    Figure("Compressed", "compressed_bytes", _plain("compressed_bytes"), units.size),
    Figure("Zero weights", "zero_share", _plain("zero_share"), lambda share: units.percent(share, 1)),
    Figure("MACs", "macs", _plain("macs"), units.quantity),
    Figure("Parameters", "parameters", _plain("parameters"), units.quantity),
    Figure(
        "Energy", "energy_j", _plain("energy_j"), units.energy,
        lambda v: _between(v["energy_j_ci"], units.energy),
    ),
    Figure("Throughput", "throughput_per_s", _plain("throughput_per_s"), _rate),
    Figure("Peak memory", "peak_memory_bytes", _plain("peak_memory_bytes"), units.size),
    Figure("Cold start", "cold_start_ns", _plain("cold_start_ns"), units.duration),
)  # fmt: skip


def figures(device: Mapping[str, Any]) -> list[Figure]:
    """The columns that at least one variant of the device fills."""
    found = [figure for figure in FIGURES if any(figure.value(v) is not None for v in device["variants"].values())]
    if energy_simulated(device):
        found = [
            replace(figure, head=f"{figure.head} ({MARK})") if figure.key == "energy_j" else figure for figure in found
        ]
    return found


def absences(device: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """What was not measured and why: (figure, reason, variants), variants of one reason together."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, variant in device["variants"].items():
        if variant["error"]:
            found.setdefault(("Everything", variant["error"]), []).append(name)
            continue
        for figure in FIGURES:
            reason = variant["energy_reason"] if figure.key == "energy_j" else variant["reasons"].get(figure.key)
            if figure.value(variant) is None and reason and figure.head not in ("p90", "p99"):
                found.setdefault((figure.head, reason), []).append(name)
    return [(head, reason, names) for (head, reason), names in found.items()]


def steps(device: Mapping[str, Any], reference: str | None) -> list[dict[str, Any]]:
    """The reference and the candidates as steps of the pipeline: each with what it changed against its origin.

    Returns:
        Per measured variant: "name", "accuracy", "p50", "size" and their share of the largest (for bars), "against"
        (what it was made from), "follows" (whether that is the row before) and "change": accuracy in pp, how many times
        faster (paired where the run compared the two) and smaller; None for the first.
    """
    variants = device["variants"]
    measured = [(name, variants[name]) for name in roles.chain(variants, reference) if not variants[name]["error"]]
    largest = max((v["size_bytes"] or 0 for _, v in measured), default=0)
    slowest = max((v["latency_ns"]["p50"] for _, v in measured if v["latency_ns"]), default=0)
    found: list[dict[str, Any]] = []
    for name, variant in measured:
        origin = made_from(name, dict(measured))
        p50 = variant["latency_ns"]["p50"] if variant["latency_ns"] else None
        found.append({
            "name": name,
            "accuracy": variant["accuracy"],
            "p50": p50,
            "p50_share": p50 / slowest if p50 and slowest else None,
            "size": variant["size_bytes"],
            "size_share": variant["size_bytes"] / largest if variant["size_bytes"] and largest else None,
            "macs": variant["macs"],
            "against": origin,
            "follows": not found or found[-1]["name"] == origin,
            "change": None if origin is None else _change((origin, variants[origin]), (name, variant), device),
        })  # fmt: skip
    return found


def _change(before: tuple[str, Variant], after: tuple[str, Variant], device: Mapping[str, Any]) -> dict[str, Any]:
    (old, a), (new, b) = before, after
    pair = comparison(old, new, device)
    if pair:
        faster, unclear = pair["ratio"] if pair["faster"] == new else 1 / pair["ratio"], pair["no_difference"]
    else:
        known = a["speedup"] and b["speedup"]
        faster, unclear = b["speedup"] / a["speedup"] if known else None, bool(b["no_difference"]) and a["speedup"] == 1
    resized = a["size_bytes"] and b["size_bytes"] and a["size_bytes"] != b["size_bytes"]
    scored = a["accuracy"] is not None and b["accuracy"] is not None
    return {
        "accuracy_pp": 100 * (b["accuracy"] - a["accuracy"]) if scored else None,
        "faster": faster,
        "no_difference": unclear,
        "smaller": a["size_bytes"] / b["size_bytes"] if resized else None,
    }


def fact_rows(variant: Variant) -> list[tuple[str, str]]:
    """What the runtime and its preparation say of a variant, but for the precisions that are shown by themselves."""
    facts = {key: value for key, value in variant["facts"].items() if key not in ("precision", "layers")}
    prepared = {f"prepare.{key}": value for key, value in variant["prepare"].items()}
    rows = flat({**facts, **prepared}).items()
    return [(key, value if len(value) <= _LONGEST else f"{value[:_LONGEST]}...") for key, value in rows]


def next_steps(device: Mapping[str, Any]) -> list[str]:
    """What to do about a device that was not reached; a pending one's message says it itself."""
    if device["error"]["kind"] != "unreachable":
        return []
    return [
        "once it can be reached, give the same command again: all that was made is cached, and only measuring is left"
    ]


def state_rows(state: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Device state before and after as rows (key, before, after, differs), nested keys joined by dots."""
    before, after = flat(state["before"] or {}), flat(state["after"] or {})
    keys = list(dict.fromkeys([*before, *after]))
    return [(key, before.get(key, ""), after.get(key, ""), before.get(key) != after.get(key)) for key in keys]


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted keys and shown values."""
    rows: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            rows |= flat(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return rows
