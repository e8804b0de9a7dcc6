"""Write the folder that a device's agent is given: models, inputs, and what to do with them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekd.agent.files import sha256, write_json, write_npz
from edgekd.agent.job import Job
from edgekd.agent.method import FULL, QUICK, Method, Model, Power
from edgekd.device import Device
from edgekd.dispatch.variants import Build
from edgekd.stages.measure import Options

SEED = 0


def method(options: Options) -> Method:
    """Return the agent's method: the quick or the full one, with what the recipe sets."""
    base = QUICK if options.quick else FULL
    return replace(
        base,
        processes=options.processes,
        seconds=options.seconds or base.seconds,
        inferences=options.inferences or base.inferences,
    )


@dataclass(frozen=True)
class Order:
    """What one device is to measure.

    Args:
        name: of the device.
        device: its profile.
        models: ONNX files by variant.
        reference: the variant that the others are compared with.
        splits: for each split the inputs by name, (N, ...).
        latency: the batch that is timed, by input name.
        options: how long and how often.
        lock_clocks: whether the agent may fix the device's clocks meanwhile.
        method: how long and how often instead of what `options` say.
    """

    name: str
    device: Device
    models: Mapping[str, Path]
    reference: str | None
    splits: Mapping[str, Mapping[str, np.ndarray]]
    latency: Mapping[str, np.ndarray]
    options: Options
    lock_clocks: bool = False
    method: Method | None = None


def write(folder: Path, order: Order, builds: Mapping[str, Build]) -> None:
    """Fill a job's folder.

    Args:
        builds: what is measured as each variant. None of them is refused.
    """
    (folder / "models").mkdir(parents=True)
    files: dict[Path, str] = {}

    def placed(path: Path | None, name: str) -> str | None:
        """Copy a file into the job, once for all variants that are built from it."""
        if path is not None and path not in files:
            files[path] = f"models/{name}.onnx"
            shutil.copyfile(path, folder / files[path])
        return None if path is None else files[path]

    models = []
    for variant, build in builds.items():
        file, half = placed(build.path, variant), placed(build.half_file, f"{variant}.half")
        assert file is not None
        half_sha256 = None if half is None else sha256(folder / half)
        models.append(Model(variant, file, sha256(folder / file), build.precision, half, half_sha256))
    inputs = {split: f"inputs/{split}.npz" for split in (*order.splits, "latency")}
    for split, arrays in {**order.splits, "latency": order.latency}.items():
        write_npz(folder / inputs[split], arrays)
    device, power = order.device, order.device.power
    job = Job(
        device=order.name,
        backend=device.backend,
        models=tuple(models),
        options=dict(device.options),
        reference=order.reference if order.reference in builds else None,
        inputs={split: inputs[split] for split in order.splits},
        latency_inputs=inputs["latency"],
        batch_size=order.options.batch_size,
        method=order.method or method(order.options),
        cores=device.cores,
        power=Power(power.meter, power.pace_hz, power.period_s),
        lock_clocks=order.lock_clocks,
        files={path: sha256(folder / path) for path in inputs.values()},
        seed=SEED,
    )
    write_json(folder / "job.json", job.to_json())
