"""Write the folder that a device's agent is given: models, inputs, and what to do with them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekd.agent.files import sha256, write_json, write_npz
from edgekd.agent.job import Job
from edgekd.agent.method import Method, Model, Power
from edgekd.device import Device
from edgekd.stages.measure import Options

SEED = 0
FULL = Method(seconds=10.0, inferences=1000, warmup_seconds=3.0, throughput_seconds=2.0)
QUICK = replace(
    FULL,
    seconds=1.0,
    inferences=300,
    warmup_seconds=0.5,
    throughput_seconds=0.3,
    energy_windows=3,
    energy_window_seconds=1.0,
    idle_seconds=1.0,
    quick=True,
)


def method(options: Options) -> Method:
    """Return the agent's method: the quick or the full one, with what the recipe sets."""
    base = QUICK if options.quick else FULL
    return replace(
        base,
        processes=options.processes,
        seconds=options.seconds or base.seconds,
        inferences=options.inferences or base.inferences,
    )


def write(
    folder: Path,
    *,
    name: str,
    device: Device,
    models: Mapping[str, Path],
    reference: str | None,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    latency: Mapping[str, np.ndarray],
    options: Options,
) -> None:
    """Fill a job's folder.

    Args:
        models: ONNX files by variant.
        reference: the variant that the others are compared with.
        splits: for each split the inputs by name, (N, ...).
        latency: the batch that is timed, by input name.
    """
    (folder / "models").mkdir(parents=True)
    (folder / "inputs").mkdir()
    rows = []
    for variant, path in models.items():
        file = f"models/{variant}.onnx"
        shutil.copyfile(path, folder / file)
        rows.append(Model(variant, file, sha256(path)))
    for split, arrays in {**splits, "latency": latency}.items():
        write_npz(folder / "inputs" / f"{split}.npz", arrays)
    job = Job(
        device=name,
        backend=device.backend,
        models=tuple(rows),
        options=dict(device.options),
        reference=reference,
        inputs={split: f"inputs/{split}.npz" for split in splits},
        latency_inputs="inputs/latency.npz",
        batch_size=options.batch_size,
        method=method(options),
        cores=device.cores,
        power=Power(meter=device.power.meter),
        seed=SEED,
    )
    write_json(folder / "job.json", job.to_json())
