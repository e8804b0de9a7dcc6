"""Time on the GPU's own clock beside that on the host's: a check of the latency, which is always the host's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekd.report.statistics import percentiles


def gpu_time(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return {"p50", "p90", "p99", "n", "host_p50"} in nanoseconds of a variant's facts; None where no GPU was timed.

    Args:
        facts: with "gpu_ns", the time between events on the GPU of each call [n], and "host_ns", the time of the same
            calls on the host [n], copies and synchronisation included.
    """
    gpu = np.array(facts.get("gpu_ns") or (), np.float64)
    if not len(gpu):
        return None
    p50, p90, p99 = percentiles(gpu)
    host = np.array(facts.get("host_ns") or (), np.float64)
    return {
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "n": len(gpu),
        "host_p50": float(np.median(host)) if len(host) else None,
    }


def impossible(found: Mapping[str, Any] | None) -> bool:
    """Whether the host says that it was done before the GPU was: it did not wait for it."""
    return found is not None and found["host_p50"] is not None and found["host_p50"] < found["p50"]
