"""How much of what the machine can do is reached: the network against a benchmark measured in the same rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.graph.peak import MACS


def roofline(
    variants: Mapping[str, Any], p50_ns: Mapping[str, float], model: str, macs: int | None, batch: int
) -> dict[str, Any]:
    """Return the peak by precision, what the model reaches, and its share, all in multiply-accumulates per second.

    Args:
        variants: of the measurement; those whose name begins with "peak-" are benchmarks.
        p50_ns: by variant.
        model: the variant in question.
        macs: of it, for one sample.
        batch: samples in one call.

    Returns:
        {"peak_macs_per_s": {precision: value}, "reached_macs_per_s", "share": {precision: value}, "reason"}; "reason"
        says why a figure is missing.
    """
    peaks: dict[str, float] = {}
    failed = []
    for name, variant in variants.items():
        if not name.startswith("peak-"):
            continue
        ran = (variant["facts"] or {}).get("precision") or {}
        if variant["error"] or name not in p50_ns or len(ran) != 1:
            failed.append(f"{name}: {variant['error'] or f'it ran in {_mixed(ran)}'}")
            continue
        (precision,) = ran
        peaks[precision] = max(peaks.get(precision, 0.0), MACS / p50_ns[name] * 1e9)
    time = p50_ns.get(model)
    reached = None if time is None or macs is None else macs * batch / time * 1e9
    if macs is None:
        failed.append("the multiply-accumulates of the model are unknown: a shape in it is open")
    return {
        "peak_macs_per_s": peaks,
        "reached_macs_per_s": reached,
        "share": {precision: None if reached is None else reached / peak for precision, peak in peaks.items()},
        "reason": "; ".join(failed) or None,
    }


def _mixed(ran: Mapping[str, int]) -> str:
    return " and ".join(sorted(ran)) or "no precision that the runtime tells"
