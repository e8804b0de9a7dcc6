"""Does a trained network hold a point's limits? Measured as in the end, but judged on the validation split."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd import artifact, filing, rundir, steps
from edgekd.artifact import Artifact
from edgekd.dispatch.measurement import Dispatch
from edgekd.errors import StageError
from edgekd.filing import Job
from edgekd.options import Gates
from edgekd.profiles import Handling
from edgekd.report import build
from edgekd.report.evidence import read_measurement
from edgekd.report.gates import GATES, evaluate
from edgekd.search.points import Checked, Missed
from edgekd.stages.budget import COSTS
from edgekd.steps import Step

_KEPT = (
    "validation", "reasons", "speedup", "speedup_ci", "latency_ns", "size_bytes", "peak_memory_bytes", "energy_j",
    "energy_j_ci", "energy_reason", "energy_simulated", "error",
)  # fmt: skip


def check(
    job: Job,
    artifacts: Mapping[str, Artifact],
    made: Sequence[Step],
    name: str,
    limits: Gates,
    handling: Handling,
    *,
    again: bool = False,
) -> Checked:
    """Measure a point's variants beside the reference, and judge them.

    Args:
        artifacts: by label, of the job's steps and of those of the point.
        made: the steps of the point.
        name: of the point.
        again: measure what was measured once more; both are kept.

    Raises:
        StageError: a device could not be measured.
    """
    reference = steps.reference(job.recipe)
    files = [step for step in (*job.steps, *made) if step.name == "export"]
    asked = [step for step in files if step.variant == reference or step in made]
    parts = {
        "exports": {step.variant: artifacts[step.label].digest for step in asked},
        "devices": {device: profile.model_dump(mode="json") for device, profile in job.devices.items()},
        "measure": filing.measuring(job.recipe).model_dump(mode="json"),
        **({"again": True} if again else {}),
    }
    variants = {step.variant for step in asked}
    small = replace(job, steps=[step for step in (*job.steps, *made) if step.variant in variants])
    kept, _ = artifact.build(
        job.shop.store, "check", parts, lambda out: _measured(small, artifacts, name, handling, out)
    )
    found = {device: best(device, figures, reference, limits) for device, figures in kept.facts.items()}
    drops = [one.drop_pp for one in found.values() if one.drop_pp is not None]
    return Checked(tuple(missed for one in found.values() for missed in one.missed), max(drops) if drops else None)


def _measured(
    job: Job, artifacts: Mapping[str, Artifact], name: str, handling: Handling, out: Path
) -> dict[str, dict[str, Any]]:
    """Return the figures of each variant by device."""
    with tempfile.TemporaryDirectory(prefix=".check-", dir=out) as temporary:
        folder, shop = Path(temporary), job.shop
        dispatch = Dispatch(folder, name, handling.keep, shop.show.say, shop.show.working, read_measurement)
        outcomes = filing.measure(job, artifacts, dispatch, lock_clocks=handling.lock_clocks, splits=("validation",))
        failed = [f"{device}: {found.error['message']}" for device, found in outcomes.items() if found.error]
        if failed:
            raise StageError(f"budget: {name} cannot be measured: {'; '.join(failed)}")
        content = filing.content(job, artifacts, outcomes, folder, name)
        rundir.write(folder, content | {"stages": [], "provenance": {}})
        report = build.build(folder)
    return {
        device: {variant: {key: figures[key] for key in _KEPT} for variant, figures in found["variants"].items()}
        for device, found in report["devices"].items()
    }


def best(device: str, figures: Mapping[str, Any], reference: str, limits: Gates) -> Checked:
    """Return what the best of the variants of a device missed: of those that missed fewest limits the fastest."""
    asked = limits.model_dump(exclude_none=True, exclude_defaults=True)
    base = figures[reference]
    found = []
    for variant, own in figures.items():
        if variant != reference:
            missed = tuple(_missed(device, variant, own, base, asked))
            found.append((len(missed), -(own["speedup"] or 0.0), Checked(missed, own["validation"].get("drop_pp"))))
    return min(found, key=lambda one: one[:2])[2]


def _missed(
    device: str, variant: str, own: Mapping[str, Any], base: Mapping[str, Any], asked: Mapping[str, Any]
) -> Iterator[Missed]:
    """Yield the limits that a variant does not hold; of what a smaller network does better, with its whole interval."""
    for gate, limit in asked.items():
        if own["error"]:
            yield Missed(device, gate, 1.0, f"{device}: {variant}: {own['error']}", cost=False)
            return
        entry = evaluate(gate, limit, own, base, own["validation"])
        told = f"{device}: {variant}: {entry['reason']}"
        if gate not in COSTS or entry["value"] is None:
            if entry["status"] != "passed":
                yield Missed(device, gate, 1.0, told, cost=False)
            continue
        upper = GATES[gate].at_most
        worst = (entry["ci"] or [entry["value"]] * 2)[1 if upper else 0]
        excess = worst / limit if upper else limit / worst
        if excess > 1:
            nearly = entry["status"] == "passed"
            beyond = ", but its interval reaches beyond the limit" if nearly else ""
            yield Missed(device, gate, excess, f"{told}{beyond}", cost=True, nearly=nearly)
