"""Integers: a candidate, not a belief. Which variants claim to compute in 8 bits, and what speaks against them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.report import units
from edgekd.report.latency import comparison


def is_integer(name: str) -> bool:
    """Whether a variant claims to compute in 8-bit integers: its name says int8 (int8, student.int8, int8-qat)."""
    return re.search(r"(?<![a-z])int8(?![a-z0-9])", name.lower()) is not None


def float_counterpart(name: str, names: Sequence[str], *, pipeline: bool) -> str | None:
    """The variant that an integer variant was made from: its name without int8, or in a pipeline the one before it."""
    if not is_integer(name):
        return None
    stem = re.sub(r"[._-]?int8.*$", "", name, flags=re.IGNORECASE)
    if stem in names:
        return stem
    before = [other for other in names[: names.index(name)] if not is_integer(other)] if pipeline else []
    return before[-1] if before else None


def integer_faults(name: str, device: Mapping[str, Any]) -> list[str]:
    """Why an integer variant is not to be recommended on this device: slower than its float, or not integers there."""
    variant = device["variants"][name]
    if not is_integer(name):
        return []
    faults = []
    precision: Mapping[str, int] = variant["precision"] or {}
    if precision and not any(count for label, count in precision.items() if "int8" in label):
        faults.append(f"does not run as integers on this device ({executed(precision)})")
    origin = variant.get("float_counterpart")
    if origin:
        pair = comparison(name, origin, device)
        if pair and pair["slower"] == name and not pair["no_difference"]:
            faults.append(f"slower than its float {origin}: {units.times(1 / pair['ratio'])}")
        elif pair is None and (variant["speedup"] or 1) < 1 and not variant["no_difference"]:
            faults.append(f"slower than its float {origin}: {units.times(variant['speedup'])}")
    return faults


def executed(precision: Mapping[str, int]) -> str:
    """The precision of the layers that multiply and accumulate, in words: "computing layers: 9 int8, 2 float32"."""
    parts = [f"{count} {label}" for label, count in sorted(precision.items(), key=lambda item: -item[1])]
    return "computing layers: " + ", ".join(parts)
