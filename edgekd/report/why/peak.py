"""How much of what the machine can do is reached: the network against a benchmark measured in the same rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def roofline(
    variants: Mapping[str, Any], p50_ns: Mapping[str, float], model: str, macs: int | None, peaks: Mapping[str, int]
) -> dict[str, Any]:
    """Return the peak by precision, what the model reaches, and its share, all in multiply-accumulates per second.

    Args:
        variants: of the measurement.
        p50_ns: by variant.
        model: the variant in question.
        macs: of a call of it; None where they are unknown.
        peaks: of the benchmarks, by variant.

    Returns:
        {"peak_macs_per_s": {precision: value}, "reached_macs_per_s", "share": {precision: value}, "reason"}; "reason"
        says why a figure is missing.
    """
    best: dict[str, float] = {}
    failed = []
    for name, count in peaks.items():
        variant = variants.get(name, {"error": "it was not measured", "facts": {}})
        ran = variant["facts"].get("precision") or {}
        if variant["error"] or name not in p50_ns or len(ran) != 1:
            failed.append(f"{name}: {variant['error'] or f'it ran in {_mixed(ran)}'}")
            continue
        (precision,) = ran
        best[precision] = max(best.get(precision, 0.0), count / p50_ns[name] * 1e9)
    time = p50_ns.get(model)
    reached = None if time is None or macs is None else macs / time * 1e9
    if macs is None:
        failed.append("the multiply-accumulates of the model are unknown: a shape in it is open")
    return {
        "peak_macs_per_s": best,
        "reached_macs_per_s": reached,
        "share": {precision: None if reached is None else reached / peak for precision, peak in best.items()},
        "reason": "; ".join(failed) or None,
    }


def _mixed(ran: Mapping[str, int]) -> str:
    return " and ".join(sorted(ran)) or "no precision that the runtime tells"
