"""What each variant of a run is for: a candidate for use, a teacher, or the student that had no teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report.precisions import is_half, stem

TEACHER, BASELINE, CANDIDATE = "teacher", "baseline", "candidate"
STUDENT = "student"  # the candidate that differs from the baseline by nothing but its teacher
TAGS = {TEACHER: "another teacher", BASELINE: "without a teacher"}

Variants = Mapping[str, Mapping[str, Any]]


def candidates(variants: Variants, reference: str | None) -> list[str]:
    """The variants that may be recommended: never the reference, unless a run has nothing else."""
    found = [name for name, variant in variants.items() if name != reference and variant["role"] == CANDIDATE]
    return found or [name for name in variants if name == reference]


def chain(variants: Variants, reference: str | None) -> list[str]:
    """The variants that were made one from the other, in order: the reference, then the candidates."""
    return [name for name, variant in variants.items() if name == reference or variant["role"] == CANDIDATE]


def of_point(variants: Variants, point: str, reference: str | None) -> dict[str, Mapping[str, Any]]:
    """The variants of a point of a budget, with the reference."""
    return {name: found for name, found in variants.items() if name == reference or found.get("point") == point}


def tag(name: str, variant: Mapping[str, Any], reference: str | None) -> str:
    """What a reader must know of a variant that is only compared with; nothing for a candidate."""
    if name == reference:
        return "reference"
    if variant["role"] == TEACHER and is_half(name):
        kind = "bfloat16" if name.endswith("bf16") else "float16"
        return f"reference in {kind}" if stem(name) == reference else f"another teacher in {kind}"
    return TAGS.get(variant["role"], "")


def several_teachers(variants: Variants) -> bool:
    """Whether the student had more than one teacher."""
    return len([name for name, variant in variants.items() if variant["role"] == TEACHER and not is_half(name)]) > 1
