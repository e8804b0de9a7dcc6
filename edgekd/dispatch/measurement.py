"""One device's measurement for a run: write the job, have the agent do it, keep what comes back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgekd.device import Device
from edgekd.dispatch import job, local
from edgekd.stage import Progress
from edgekd.stages.measure import Options


def take(
    out: Path,
    *,
    name: str,
    device: Device,
    models: Mapping[str, Path],
    reference: str | None,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    latency: Mapping[str, np.ndarray],
    options: Options,
    progress: Progress,
) -> dict[str, str] | None:
    """Measure models on a device; the other arguments are those of `job.write`.

    Args:
        out: where the measurement's folder shall be; there is none where the measurement failed.

    Returns:
        None, or what run.json says of a device that gave no measurement: {"kind", "message"}.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the measurement: what a killed run leaves goes with its unfinished folder.
    with tempfile.TemporaryDirectory(prefix=".job-", dir=out.parent) as temporary:
        folder = Path(temporary) / "job"
        job.write(
            folder, name=name, device=device, models=models, reference=reference,
            splits=splits, latency=latency, options=options,
        )  # fmt: skip
        try:
            local.measure(folder, out, timeout_s=options.timeout_minutes * 60, progress=progress)
        except local.MeasurementError as failed:
            shutil.rmtree(out, ignore_errors=True)
            return {"kind": "failed", "message": str(failed)}
    return None
