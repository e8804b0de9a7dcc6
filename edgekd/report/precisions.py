"""Lower precision: a candidate, not a belief. Which variants claim to compute in 8 or 16 bits, and what speaks against
them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgekd.report import units
from edgekd.report.latency import comparison

Variants = Mapping[str, Mapping[str, Any]]


def is_integer(name: str, variants: Variants) -> bool:
    """Whether a variant claims to compute in 8-bit integers: its file has integer layers, or its name says int8."""
    return bool(variants[name].get("integers")) or _says("int8", name)


def is_half(name: str) -> bool:
    """Whether a variant claims to compute in 16-bit floats: its name says fp16 or bf16 (student-fp16)."""
    return _says("fp16", name) or _says("bf16", name)


def _says(precision: str, name: str) -> bool:
    return re.search(rf"(?<![a-z]){precision}(?![a-z0-9])", name.lower()) is not None


def stem(name: str) -> str:
    """The name without its precision: "student" of student.int8 and of student-fp16."""
    return re.sub(r"[._-]?(int8|fp16|bf16).*$", "", name, flags=re.IGNORECASE)


def made_from(name: str, variants: Variants) -> str | None:
    """The variant of a pipeline that this one was made from: its float32 where it is that in float16, else the float32
    one before it, if there is one."""
    if is_half(name) and stem(name) in variants:
        return stem(name)
    names = list(variants)
    before = [
        other
        for other in names[: names.index(name)]
        if not is_integer(other, variants) and variants[other].get("point") in (None, variants[name].get("point"))
    ]
    whole = [other for other in before if not is_half(other)] or before
    return whole[-1] if whole else None


def float_counterpart(name: str, variants: Variants, *, pipeline: bool) -> str | None:
    """The float32 variant of one in lower precision: its name without the precision, or in a pipeline the float32 one
    before it."""
    if not (is_integer(name, variants) or is_half(name)):
        return None
    if stem(name) != name and stem(name) in variants:
        return stem(name)
    return made_from(name, variants) if pipeline else None


def precision_faults(name: str, device: Mapping[str, Any]) -> list[str]:
    """Why a variant in lower precision is not to be recommended on this device: slower than its float, or not really
    in that precision there."""
    variant = device["variants"][name]
    integers = is_integer(name, device["variants"])
    if not (integers or is_half(name)):
        return []
    faults = []
    precision: Mapping[str, int] = variant["precision"] or {}
    label, what = ("int8", "as integers") if integers else ("16", "in 16 bits")
    if precision and not any(count for ran, count in precision.items() if label in ran):
        faults.append(f"does not run {what} on this device ({executed(precision)})")
    origin = variant.get("float_counterpart")
    if origin:
        faults += _slower(name, origin, f"its float {origin}", device)
        faults += [fault for other in _halves(origin, device) if integers
                   for fault in _slower(name, other, other, device)]  # fmt: skip
    return faults


def _halves(origin: str, device: Mapping[str, Any]) -> list[str]:
    """The float16 variants of a float32 one."""
    variants = device["variants"].items()
    return [name for name, found in variants if is_half(name) and found.get("float_counterpart") == origin]


def _slower(name: str, other: str, shown: str, device: Mapping[str, Any]) -> list[str]:
    variant, pair = device["variants"][name], comparison(name, other, device)
    if pair and pair["slower"] == name and not pair["no_difference"]:
        return [f"slower than {shown}: {units.times(1 / pair['ratio'])}"]
    # The reference is compared with by the speed-up alone.
    is_reference = device["variants"].get(other, {}).get("speedup") == 1.0
    if pair is None and is_reference and (variant["speedup"] or 1) < 1 and not variant["no_difference"]:
        return [f"slower than {shown}: {units.times(variant['speedup'])}"]
    return []


def executed(precision: Mapping[str, int]) -> str:
    """The precision of the layers that multiply and accumulate, in words: "computing layers: 9 int8, 2 float32"."""
    parts = [f"{count} {label}" for label, count in sorted(precision.items(), key=lambda item: -item[1])]
    return "computing layers: " + ", ".join(parts)
