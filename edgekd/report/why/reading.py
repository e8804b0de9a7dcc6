"""From a measurement to causes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edgekd.graph.anatomy import Anatomy
from edgekd.report.precisions import is_integer, precision_faults
from edgekd.report.why.causes import find
from edgekd.report.why.finding import Evidence
from edgekd.report.why.profile import profile

_ON_PROCESSOR = ("CPUExecutionProvider", "CPU")


def of_variant(measurement: Mapping[str, Any], variant: str, device: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was found of an int8 variant that is slower than its floats, or does not run as integers.

    Args:
        measurement: the content of measurement.json, all that is looked at.
        variant: its name.
        device: the device's entry of the report, in which each variant has its "float_counterpart".

    Returns:
        The fields of each `Finding`; nothing for a variant that is as fast as it should be.
    """
    variants = device["variants"]
    if variants[variant]["error"] or not is_integer(variant, variants) or not precision_faults(variant, device):
        return []
    return [asdict(finding) for finding in find(gather(measurement, variant, integers=True))]


def gather(
    measurement: Mapping[str, Any],
    variant: str,
    *,
    integers: bool,
    graph: Anatomy | None = None,
    sqnr_db: Mapping[str, float] | None = None,
) -> Evidence:
    """Return what is known of a measured variant.

    Args:
        measurement: the content of measurement.json.
        variant: one that ran.
        integers: whether it is meant to compute in integers.
        graph: its file, where it is at hand.
        sqnr_db: of its layers, where it was measured.
    """
    facts = measurement["variants"][variant]["facts"]
    state = measurement["environment"]["before"]
    on_processor = facts.get("provider") in _ON_PROCESSOR
    return Evidence(
        runtime=measurement["backend"],
        architecture=str(state.get("architecture") or "") if on_processor else "",
        flags=frozenset(state.get("flags") or ()),
        ran=profile(facts, graph),
        graph=graph,
        integers=integers,
        sqnr_db=dict(sqnr_db or {}),
    )
