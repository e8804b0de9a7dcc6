"""What a run left behind, read back and checked: run.json, labels, and every measurement with its digests.

A measurement comes from a device, so nothing in it is trusted: every file must lie inside the measurement's folder,
have the sha256 it was sent with, look as `schema` says, and hold plain arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.agent import PROTOCOL, sealing
from edgekd.errors import EdgekdError, UsageError
from edgekd.report.integration import Readings, Window
from edgekd.report.outline import Outline
from edgekd.report.reading import Arrays, inside, read_arrays, read_json, verify
from edgekd.report.schema import CONTROL, Energy, EnergyWindows, Latency, Measurement, checked

__all__ = [
    "CONTROL", "Arrays", "EnergyEvidence", "Evidence", "LatencySamples", "Run", "check_seal", "read_arrays",
    "read_json", "read_measurement", "read_run",
]  # fmt: skip

RUN_SCHEMA = 1
EXTERNAL_FILE = "external.csv"  # beside measurement.json: what an external meter said, as it was given


@dataclass(frozen=True)
class LatencySamples:
    """Raw latencies of one device.

    Args:
        columns: What was timed, in column order; a name ending in "#control" is the A/A control.
        processes: Per fresh process, per column: int64 nanoseconds [rounds, calls]; all columns of a process share
            their rounds, so row r of every column was timed within the same few milliseconds.
        unsteady: Columns whose warm-up had not become steady when its time was up, in one process or more.
    """

    columns: tuple[str, ...]
    processes: tuple[tuple[NDArray[np.int64], ...], ...]
    unsteady: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnergyEvidence:
    """The energy windows of one device, and what its meter read meanwhile.

    Args:
        content: samples/energy.json.
        windows: Its windows, for the estimator.
        readings: None where the meter is external, or gave none.
    """

    content: EnergyWindows
    windows: tuple[Window, ...]
    readings: Readings | None


@dataclass(frozen=True)
class Evidence:
    """One verified measurement: its JSON (the fields of `schema.Measurement`), its latencies, its energy windows, and
    where its outputs lie."""

    folder: Path
    content: dict[str, Any]
    latency: LatencySamples | None
    energy: EnergyEvidence | None

    @property
    def external(self) -> Path | None:
        """What an external meter said of it; None where nobody brought it."""
        path = self.folder / EXTERNAL_FILE
        return path if path.is_file() else None

    def outputs(self, variant: str, split: str) -> Arrays | None:
        """The raw outputs of a variant over a split (first axis = samples), or None when it was not evaluated."""
        name = self.content["variants"][variant]["outputs"].get(split)
        if name is None:
            return None
        path = inside(self.folder, name)
        arrays = read_arrays(path)
        if any(array.ndim == 0 or array.dtype.kind not in "fiub" for array in arrays.values()):
            raise EdgekdError(f"{path} must hold numbers, the first axis of each array being the samples.")
        return arrays


@dataclass(frozen=True)
class Run:
    """A run directory as read: run.json, the labels by split, the measurement of each device that gave one."""

    folder: Path
    content: dict[str, Any]
    labels: Arrays
    measurements: dict[str, Evidence] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """Read and verify a run directory.

    Raises:
        UsageError: The folder holds no run, or one of another schema version.
        EdgekdError: A file is missing, altered or unreadable; the message names it.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise UsageError(f"{folder} is not a run: it has no run.json. Give the directory that a run wrote (its --out).")
    content = read_json(path)
    if content.get("schema") != RUN_SCHEMA:
        raise UsageError(
            f"{path} has schema {content.get('schema')!r}; this edgekd reads schema {RUN_SCHEMA}. "
            f"It was written by edgekd {content.get('edgekd', 'of an unknown version')}: report it with that version, "
            "or run again."
        )
    check_seal(path, content)
    checked(content, Outline, str(path), "complete run")
    labels_path = folder / "labels.npz"
    labels = read_arrays(labels_path) if labels_path.is_file() else {}
    measurements = {}
    for device in content["devices"]:
        measured = inside(folder, f"measurements/{device}")
        # What lies beside an error counts for nothing: a result that was being added when its process was killed.
        if not content["devices"][device].get("error") and (measured / "measurement.json").is_file():
            measurements[device] = read_measurement(measured)
    return Run(folder, content, labels, measurements)


def check_seal(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse what was changed after it was written, by a damaged disk or by hand; what was never sealed, is as it is.

    Raises:
        EdgekdError: Its checksum is not that of its content.
    """
    if sealing.SEAL in content and not sealing.fits(content):
        raise EdgekdError(
            f"{path} was altered after it was written: its checksum is not that of its content. Copy it again, or run "
            "again: what is finished is kept in the store."
        )


def read_measurement(folder: Path) -> Evidence:
    """Read and verify one measurement directory.

    Raises:
        EdgekdError: Another protocol version, a field of the wrong kind, or a file that is missing, altered, outside
            the folder or unreadable; the message names it.
    """
    path = folder / "measurement.json"
    found = read_json(path)
    if found.get("protocol") != PROTOCOL:
        raise EdgekdError(
            f"{path} has protocol {found.get('protocol')!r}; this edgekd reads protocol {PROTOCOL}. "
            "Measure again with the agent of this version."
        )
    check_seal(path, found)
    content = checked(found, Measurement, str(path))
    for name, expected in content.files.items():
        verify(inside(folder, name), expected)
    for name in _referenced(content):
        if name not in content.files:
            raise EdgekdError(f"{path} refers to {name!r} without a digest of it: the measurement is incomplete.")
    return Evidence(
        folder=folder,
        content=content.model_dump(),
        latency=_read_latency(folder, content.latency) if content.latency else None,
        energy=_read_energy(folder, content.energy),
    )


def _referenced(content: Measurement) -> list[str]:
    names = [name for variant in content.variants.values() for name in variant.outputs.values()]
    names += content.latency.processes if content.latency else ()
    return names + [name for name in (content.energy.windows, content.energy.samples) if name is not None]


def _read_latency(folder: Path, latency: Latency) -> LatencySamples:
    processes = []
    steady = np.ones(len(latency.columns), bool)
    for name in latency.processes:
        path = inside(folder, name)
        arrays = read_arrays(path)
        samples = tuple(_column(path, arrays, index) for index in range(len(latency.columns)))
        if len({len(column) for column in samples}) > 1:
            raise EdgekdError(f"{path}: the columns differ in their number of rounds, so they are not paired.")
        processes.append(samples)
        settled = arrays.get("warmup_steady", steady)
        if settled.dtype != bool or settled.shape != steady.shape:
            raise EdgekdError(f"{path}: warmup_steady must be one truth value per column.")
        steady &= settled
    unsteady = tuple(name for name, settled in zip(latency.columns, steady, strict=True) if not settled)
    return LatencySamples(latency.columns, tuple(processes), unsteady)


def _column(path: Path, arrays: Arrays, index: int) -> NDArray[np.int64]:
    samples = arrays.get(f"latency_ns_{index}")
    if samples is None:
        raise EdgekdError(f"{path} has no latency_ns_{index}; it has {', '.join(arrays) or 'nothing'}.")
    if samples.ndim != 2 or samples.size == 0 or not np.issubdtype(samples.dtype, np.integer):
        raise EdgekdError(f"{path}: latency_ns_{index} must be positive integers [rounds, calls].")
    nanoseconds = samples.astype(np.int64, copy=False)
    if nanoseconds.min() <= 0:
        raise EdgekdError(f"{path}: latency_ns_{index} must be positive integers [rounds, calls].")
    return nanoseconds


def _read_energy(folder: Path, energy: Energy) -> EnergyEvidence | None:
    if energy.windows is None:
        return None
    path = inside(folder, energy.windows)
    content = checked(read_json(path), EnergyWindows, str(path))
    windows = tuple(Window(**window.model_dump()) for window in content.windows)
    if energy.samples is None or not content.channels:
        return EnergyEvidence(content, windows, None)
    path = inside(folder, energy.samples)
    arrays = read_arrays(path)
    times, values = arrays.get("time_ns"), arrays.get("values")
    if times is None or times.dtype != np.int64 or times.ndim != 1:
        raise EdgekdError(f"{path}: time_ns must be int64 nanoseconds [readings].")
    if values is None or values.dtype != np.float64 or values.shape != (len(times), len(content.channels)):
        raise EdgekdError(
            f"{path}: values must be float64 [readings, channels], here ({len(times)}, {len(content.channels)})."
        )
    kinds = {channel.name: channel.kind for channel in content.channels}
    return EnergyEvidence(content, windows, Readings(times, values, kinds, content.total, content.period_s))
