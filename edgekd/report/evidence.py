"""What a run left behind, read back and checked: run.json, labels, and every measurement with its digests.

A measurement comes from a device, so nothing in it is trusted: every file must lie inside the measurement's folder,
have the sha256 it was sent with, and hold plain arrays.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.agent import PROTOCOL
from edgekd.errors import EdgekdError, UsageError

RUN_SCHEMA = 1
CONTROL = "#control"  # suffix of the column that is a second session of the same model

Arrays = dict[str, NDArray[Any]]


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
class Evidence:
    """One verified measurement: its JSON, its latencies, its energy windows, and where its outputs lie."""

    folder: Path
    content: dict[str, Any]
    latency: LatencySamples | None
    energy: dict[str, Any] | None

    def outputs(self, variant: str, split: str) -> Arrays | None:
        """The raw outputs of a variant over a split (first axis = samples), or None when it was not evaluated."""
        name = (self.content["variants"][variant].get("outputs") or {}).get(split)
        return None if name is None else read_arrays(_inside(self.folder, name))


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
    labels_path = folder / "labels.npz"
    labels = read_arrays(labels_path) if labels_path.is_file() else {}
    measurements = {}
    for device in content["devices"]:
        measured = _inside(folder, f"measurements/{device}")
        if (measured / "measurement.json").is_file():
            measurements[device] = read_measurement(measured)
    return Run(folder, content, labels, measurements)


def read_measurement(folder: Path) -> Evidence:
    """Read and verify one measurement directory.

    Raises:
        EdgekdError: Another protocol version, or a file that is missing, altered, outside the folder or unreadable.
    """
    path = folder / "measurement.json"
    content = read_json(path)
    if content.get("protocol") != PROTOCOL:
        raise EdgekdError(
            f"{path} has protocol {content.get('protocol')!r}; this edgekd reads protocol {PROTOCOL}. "
            "Measure again with the agent of this version."
        )
    digests: dict[str, str] = content.get("files") or {}
    for name, expected in digests.items():
        _verify(_inside(folder, name), expected)
    for name in _referenced(content):
        if name not in digests:
            raise EdgekdError(f"{path} refers to {name!r} without a digest of it: the measurement is incomplete.")
    energy = content.get("energy") or {}
    windows = energy.get("windows")
    return Evidence(
        folder=folder,
        content=content,
        latency=_read_latency(folder, content["latency"]) if content.get("latency") else None,
        energy=read_json(_inside(folder, windows)) if windows else None,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an EdgekdError names the file that is missing or not JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EdgekdError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise EdgekdError(f"{path} must hold a JSON object, it holds a {type(content).__name__}.")
    return content


def read_arrays(path: Path) -> Arrays:
    """Read an npz of plain arrays; an EdgekdError names the file that is missing, damaged or holds objects."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EdgekdError(f"{path} cannot be read as an npz of arrays: {error}") from error


def _inside(folder: Path, name: str) -> Path:
    """The path of a file named by a measurement; it must not lead out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise EdgekdError(f"{name!r} leads out of {folder}: the measurement is not to be trusted.")
    return path


def _verify(path: Path, expected: str) -> None:
    if not path.is_file():
        raise EdgekdError(f"{path} is missing: the measurement is incomplete. Measure again.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise EdgekdError(
            f"{path} was altered after it was measured: its sha256 is {found[:12]}..., recorded was "
            f"{expected[:12]}.... Measure again."
        )


def _referenced(content: dict[str, Any]) -> list[str]:
    names = [name for variant in content["variants"].values() for name in (variant.get("outputs") or {}).values()]
    names += (content.get("latency") or {}).get("processes") or []
    windows = (content.get("energy") or {}).get("windows")
    return names + ([windows] if windows else [])


def _read_latency(folder: Path, latency: dict[str, Any]) -> LatencySamples:
    columns = tuple(latency["columns"])
    processes = []
    steady = np.ones(len(columns), bool)
    for name in latency["processes"]:
        path = _inside(folder, name)
        arrays = read_arrays(path)
        samples = tuple(_column(path, arrays, index) for index in range(len(columns)))
        if len({len(column) for column in samples}) > 1:
            raise EdgekdError(f"{path}: the columns differ in their number of rounds, so they are not paired.")
        processes.append(samples)
        steady &= arrays.get("warmup_steady", steady)
    if not processes:
        raise EdgekdError(f"{folder}: the latency samples of no process are listed.")
    unsteady = tuple(name for name, settled in zip(columns, steady, strict=True) if not settled)
    return LatencySamples(columns, tuple(processes), unsteady)


def _column(path: Path, arrays: Arrays, index: int) -> NDArray[np.int64]:
    samples = arrays.get(f"latency_ns_{index}")
    if samples is None:
        raise EdgekdError(f"{path} has no latency_ns_{index}; it has {', '.join(arrays) or 'nothing'}.")
    if samples.ndim != 2 or samples.size == 0 or not np.issubdtype(samples.dtype, np.integer) or samples.min() <= 0:
        raise EdgekdError(f"{path}: latency_ns_{index} must be positive integers [rounds, calls].")
    return samples.astype(np.int64, copy=False)
