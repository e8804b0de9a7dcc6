"""Gates: a limit on one figure of a variant. Each is passed, failed by how much, or not measured and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.errors import UsageError
from edgekd.report.units import decimals_of, interval, number

Variant = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """What a gate looks at: the value, its interval if it has one, and where its absence is explained."""

    value: float | None
    ci: list[float] | None
    missing: str | None


@dataclass(frozen=True)
class Gate:
    """One kind of gate.

    Args:
        label: What it limits, as the reason says it.
        unit: Of value and limit.
        at_most: Whether the limit is an upper one.
        figure: (variant, reference variant, quality figures of a split) -> what it looks at.
    """

    label: str
    unit: str
    at_most: bool
    figure: Callable[[Variant, Variant | None, Mapping[str, Any]], Figure]


def _quality(key: str, ci: str) -> Callable[[Variant, Variant | None, Mapping[str, Any]], Figure]:
    def figure(variant: Variant, _: Variant | None, quality: Mapping[str, Any]) -> Figure:
        why = (
            variant["reasons"].get(key) if quality is variant else "the run has no validation outputs or labels for it"
        )
        return Figure(quality[key], quality[ci], why)

    return figure


def _measured(key: str, scale: float, ci: str | None = None) -> Callable[..., Figure]:
    def figure(variant: Variant, _: Variant | None, __: Mapping[str, Any]) -> Figure:
        value = variant[key]
        bounds = variant[ci] if ci else None
        why = (
            variant["reasons"].get(key) or variant["energy_reason"]
            if key == "energy_j"
            else variant["reasons"].get(key)
        )
        return Figure(None if value is None else value * scale, bounds and [b * scale for b in bounds], why)

    return figure


def _latency(key: str, ci: str | None = None) -> Callable[..., Figure]:
    def figure(variant: Variant, _: Variant | None, __: Mapping[str, Any]) -> Figure:
        found = variant["latency_ns"]
        if found is None:
            return Figure(None, None, variant["reasons"].get("latency_ns"))
        return Figure(found[key] / 1e6, [bound / 1e6 for bound in found[ci]] if ci else None, None)

    return figure


def _compression(variant: Variant, base: Variant | None, _: Mapping[str, Any]) -> Figure:
    if base is None or not base["size_bytes"] or not variant["size_bytes"]:
        return Figure(None, None, "the size of the reference or of the variant is not known")
    return Figure(base["size_bytes"] / variant["size_bytes"], None, None)


GATES: Mapping[str, Gate] = {
    "max_drop_pp": Gate("drop", "pp", True, _quality("drop_pp", "drop_pp_ci")),
    "min_accuracy": Gate("accuracy", "", False, _quality("accuracy", "accuracy_ci")),
    "min_agreement": Gate("agreement", "", False, _quality("agreement_with_teacher", "agreement_ci")),
    "min_speedup": Gate("speed-up", "x", False, _measured("speedup", 1, "speedup_ci")),
    "max_p50_ms": Gate("p50", "ms", True, _latency("p50", "p50_ci")),
    "max_p99_ms": Gate("p99", "ms", True, _latency("p99")),
    "max_size_mb": Gate("size", "MB", True, _measured("size_bytes", 1e-6)),
    "min_compression": Gate("compression", "x", False, _compression),
    "max_peak_memory_mb": Gate("peak memory", "MB", True, _measured("peak_memory_bytes", 1e-6)),
    "max_energy_mj": Gate("energy", "mJ", True, _measured("energy_j", 1e3, "energy_j_ci")),
}
QUALITY_GATES = frozenset({"max_drop_pp", "min_accuracy", "min_agreement"})
REQUIRE_ENERGY = "require_energy"
ENERGY_GATES = frozenset({"max_energy_mj", REQUIRE_ENERGY})


def evaluate(
    name: str, limit: Any, variant: Variant, base: Variant | None, quality: Mapping[str, Any]
) -> dict[str, Any]:
    """Evaluate one gate on one variant.

    Args:
        name: A key of GATES, or "require_energy".
        limit: Its limit, in the gate's unit.
        variant: The variant's entry in the report.
        base: The reference's entry, where there is one.
        quality: The figures of the split that judges: the entry itself (test), or its "validation".

    Returns:
        {"name", "limit", "value", "ci", "unit", "status", "reason"}.
    """
    if name in ENERGY_GATES and variant.get("energy_simulated"):
        return {
            "name": name, "limit": limit, "value": None, "ci": None, "unit": "", "status": "not_measured",
            "reason": f"simulated: {variant['energy_simulated']}",
        }  # fmt: skip
    if name == REQUIRE_ENERGY:
        there = variant["energy_j"] is not None
        return {
            "name": name, "limit": limit, "value": there, "ci": None, "unit": "",
            "status": "passed" if there else "not_measured",
            "reason": "energy was measured" if there else f"energy was not measured: {variant['energy_reason']}",
        }  # fmt: skip
    if name not in GATES:
        raise UsageError(f"no gate {name!r}; gates are: {', '.join([*GATES, REQUIRE_ENERGY])}")
    gate = GATES[name]
    figure = gate.figure(variant, base, quality)
    entry = {"name": name, "limit": limit, "value": figure.value, "ci": figure.ci, "unit": gate.unit}
    if figure.value is None:
        return {
            **entry,
            "status": "not_measured",
            "reason": f"{gate.label} was not measured: {figure.missing or 'unknown'}",
        }
    excess = figure.value - limit if gate.at_most else limit - figure.value
    # A limit met exactly is met, whatever the last bit of a floating-point division says.
    passed = excess <= 0 or math.isclose(figure.value, limit, rel_tol=1e-9, abs_tol=1e-12)
    return {**entry, "status": "passed" if passed else "failed", "reason": _reason(gate, figure, limit, passed, excess)}


def _reason(gate: Gate, figure: Figure, limit: float, passed: bool, excess: float) -> str:
    """The comparison in words: "drop 1.40 pp [0.91, 1.89] > 1 pp, by 0.40 pp"."""
    assert figure.value is not None
    unit = "" if gate.unit in ("", "x") else f" {gate.unit}"
    suffix = "x" if gate.unit == "x" else ""
    decimals = 4 if gate.unit == "" else 2 if gate.unit in ("pp", "x") else decimals_of(figure.value)
    sign = ("<=" if passed else ">") if gate.at_most else (">=" if passed else "<")
    bounds = f" {interval(figure.ci, decimals=decimals)}" if figure.ci else ""
    text = f"{gate.label} {figure.value:.{decimals}f}{suffix}{unit}{bounds} {sign} {limit:g}{suffix}{unit}"
    by = f"{excess:.{decimals}f}" if excess >= 0.5 * 10**-decimals else number(excess)
    return text if passed else f"{text}, by {by}{suffix}{unit}"
