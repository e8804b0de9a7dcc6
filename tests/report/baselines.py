"""Baselines made of numbers that are known beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.report.baseline.snapshot import Data, Device, Figure, Snapshot, packed
from edgekd.report.statistics import wilson_interval


def snapshot(
    variants: dict[str, dict[str, Figure]] | None = None,
    *,
    right: dict[str, np.ndarray] | None = None,
    device: dict[str, Any] | None = None,
    samples: int = 8,
    **more: Any,
) -> Snapshot:
    """A snapshot of one device `cpu`.

    Args:
        variants: By name, their figures; that of an accuracy in `right` is added.
        right: By variant, whether each sample was right [N].
        device: Replaces what is said of the device.
        more: Replaces what is said of the run.
    """
    found: dict[str, dict[str, Figure]] = {name: dict(figures) for name, figures in (variants or {}).items()}
    for name, scores in (right or {}).items():
        samples, ci = len(scores), wilson_interval(float(scores.sum()), len(scores))
        found.setdefault(name, {})["accuracy"] = Figure(value=float(scores.mean()), ci=ci)
    facts = {"runtime": "onnxruntime 1", "processor": "A", "batch_size": 1, "noise_floor": 0.0, "macs": 10}
    content = {
        "baseline": 1, "edgekd": "0.1.0", "run": "r", "kind": "pipeline", "recipe": "digits", "task": "classification",
        "reference": "teacher", "data": Data(digest="d", labels="l", samples=samples),
        "devices": {"cpu": Device(**{**facts, "variants": found, **(device or {})})},
        "right": {"cpu": {name: {"accuracy": packed(scores)} for name, scores in (right or {}).items()}},
    }  # fmt: skip
    return Snapshot(**{**content, **more})


def ratio(value: float, relative: float) -> Figure:
    """A ratio whose interval reaches as far on both sides, on the logarithmic scale."""
    return Figure(value=value, ci=(value / (1 + relative), value * (1 + relative)))
