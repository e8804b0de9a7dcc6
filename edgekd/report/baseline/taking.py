"""A run's folder -> the figures that are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import tasks
from edgekd.errors import UsageError
from edgekd.report import build, roles, views
from edgekd.report.baseline.figures import FigureName
from edgekd.report.baseline.snapshot import SCHEMA, Data, Device, Figure, Snapshot, packed
from edgekd.report.evidence import Run, read_run
from edgekd.report.simulation import all_simulated
from edgekd.report.statistics import is_binary

_DIGITS = 6  # significant ones that are kept
_FIGURES: Mapping[FigureName, tuple[str, str]] = {
    "accuracy": ("accuracy", "accuracy_ci"),
    "agreement": ("agreement_with_teacher", "agreement_ci"),
    "size": ("size_bytes", ""),
    "speedup": ("speedup", "speedup_ci"),
}
_OF_ITSELF = ("agreement", "speedup", "energy")  # of the reference: 1 by definition


def take(folder: Path) -> Snapshot:
    """Return the figures of a run, computed again from its raw samples.

    Raises:
        UsageError: The folder is no run.
        EdgekdError: A file is missing, altered or unreadable.
    """
    run = read_run(folder)
    report = build.of_run(run)
    asked = {name: device for name, device in report["devices"].items() if not device["in_place_of"]}
    provenance = run.content["provenance"]
    recipe = provenance.get("recipe")
    return Snapshot(
        baseline=SCHEMA,
        edgekd=report["edgekd"],
        run=report["run_id"],
        kind=report["kind"],
        recipe=report["recipe"],
        task=report["task"],
        reference=report["reference"],
        data=_data(run),
        devices={name: _device(device, report["reference"]) for name, device in asked.items()},
        versions={name: str(version) for name, version in (provenance.get("versions") or {}).items()},
        settings={key: value for key, value in views.flat(recipe or {}).items() if value != "null"},
        right={name: found for name in asked if (found := _right(run, name, report))},
    )


def write_checked(snapshot: Snapshot) -> None:
    """Refuse to take a run for a baseline that was not measured as a whole.

    Raises:
        UsageError: with the device and the reason.
    """
    for name, device in snapshot.devices.items():
        if device.error:
            raise UsageError(
                f"{name} was not measured in this run ({device.error}): a baseline needs every device of its run"
            )


def _data(run: Run) -> Data:
    labels = run.labels.get("test")
    data = run.content["provenance"].get("data")
    digest = data.get("digest") if isinstance(data, Mapping) else None
    if labels is None:
        return Data(digest=digest)
    canonical = np.ascontiguousarray(labels)
    found = hashlib.sha256(f"{canonical.dtype.str}{canonical.shape}".encode() + canonical.tobytes()).hexdigest()
    return Data(digest=digest, labels=found, samples=len(labels))


def _device(device: Mapping[str, Any], reference: str | None) -> Device:
    if device["error"]:
        pending = device["error"]["kind"] in build.NOT_REACHED
        return Device(error=f"{device['error']['kind']}: {device['error']['message']}", pending=pending)
    simulated = all_simulated(device)
    if simulated:
        return Device(error=f"simulated: {simulated}")
    variants, runtime = device["variants"], device["runtime"] or {}
    own = roles.chain(variants, reference)
    before = device["state"]["before"] or {}
    base = variants.get(reference) or {}
    return Device(
        runtime=f"{runtime.get('name')} {runtime.get('version')}",
        processor=before.get("cpu") or before.get("machine") or before.get("architecture"),
        batch_size=device["batch_size"],
        noise_floor=_rounded(device["noise_floor"]["floor"]) if device["noise_floor"] else None,
        energy_scope=device["energy"]["scope"],
        macs=base.get("macs"),
        recommended=device["verdict"]["recommended"],
        variants={name: _figures(variants[name], name == reference) for name in own if not variants[name]["error"]},
        failed={name: variants[name]["error"] for name in own if variants[name]["error"]},
    )


def _figures(variant: Mapping[str, Any], is_reference: bool) -> dict[FigureName, Figure]:
    found: dict[FigureName, Figure] = {
        name: _figure(variant[key], variant.get(ci)) for name, (key, ci) in _FIGURES.items() if variant[key] is not None
    }
    detail = variant["energy_detail"]
    if detail and detail["ratio_to_reference"] is not None and not variant["energy_simulated"]:
        found["energy"] = _figure(detail["ratio_to_reference"], detail["ratio_to_reference_ci"])
    return {name: figure for name, figure in found.items() if not (is_reference and name in _OF_ITSELF)}


def _figure(value: float, ci: list[float] | None) -> Figure:
    bounds = (max(0.0, _rounded(ci[0])), _rounded(ci[1])) if ci else None
    return Figure(value=_rounded(value), ci=bounds)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _right(run: Run, device: str, report: Mapping[str, Any]) -> dict[str, dict[FigureName, str]]:
    """The bits of every variant whose figures the report could compute, and whose scores are 0 or 1."""
    evidence, reference = run.measurements.get(device), report["reference"]
    if evidence is None or report["devices"][device]["error"]:
        return {}
    task, labels = tasks.load(report["task"]), run.labels.get("test")
    variants = report["devices"][device]["variants"]
    base = evidence.outputs(reference, "test") if reference in evidence.content["variants"] else None
    found: dict[str, dict[FigureName, str]] = {}
    for name in roles.chain(variants, reference):
        outputs = evidence.outputs(name, "test") if name in evidence.content["variants"] else None
        if outputs is None or labels is None or variants[name]["accuracy"] is None:
            continue
        scores: dict[FigureName, Any] = {"accuracy": task.score(outputs, labels)}
        if name != reference and base is not None and variants[name]["agreement_with_teacher"] is not None:
            scores["agreement"] = task.agreement(outputs, base)
        kept = {figure: np.asarray(score, np.float64) for figure, score in scores.items()}
        found[name] = {figure: packed(score) for figure, score in kept.items() if is_binary(score)}
    return {name: figures for name, figures in found.items() if figures}
