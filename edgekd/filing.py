"""What goes into a run's folder: the files of its variants, what devices are asked, and what run.json says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import rundir, steps
from edgekd.artifact import Artifact
from edgekd.device import Device
from edgekd.dispatch import measurement
from edgekd.dispatch.job import Order
from edgekd.dispatch.measurement import Dispatch, Outcome
from edgekd.dispatch.placing import Place
from edgekd.graph.lint import inspect
from edgekd.graph.packing import packing
from edgekd.making import Workshop
from edgekd.recipe import Recipe
from edgekd.stages.measure import Options as Measuring
from edgekd.steps import Step

SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Job:
    """A run that was checked: everything before its first work."""

    recipe: Recipe
    places: Mapping[str, Place]
    shop: Workshop
    steps: Sequence[Step]

    @property
    def devices(self) -> dict[str, Device]:
        """The profiles by name."""
        return {name: place.device for name, place in self.places.items()}


def measure(
    job: Job,
    artifacts: Mapping[str, Artifact],
    dispatch: Dispatch,
    *,
    lock_clocks: bool,
    splits: Sequence[str] = SPLITS,
) -> dict[str, Outcome]:
    """Measure every variant of a job on its devices, and keep the files that were measured in the run's folder.

    Args:
        artifacts: by the labels of the job's steps.
        splits: those over which each variant is run.
    """
    files = rundir.export_files(dispatch.folder, job.steps, artifacts)
    orders = [_order(job, name, files, lock_clocks, splits) for name in job.places]
    job.shop.show.note("measuring", {"devices": list(job.places)})
    return measurement.take_all(dispatch, orders, job.places)


def content(
    job: Job, artifacts: Mapping[str, Artifact], outcomes: Mapping[str, Outcome], folder: Path, run_id: str
) -> dict[str, Any]:
    """Write the labels into a run's folder, and return what run.json says of its variants and devices."""
    rundir.write_labels(folder, {name: getattr(job.shop.data, name).targets for name in SPLITS})
    return {
        "schema": rundir.SCHEMA,
        "kind": "pipeline",
        "recipe": job.recipe.name,
        "run_id": run_id,
        "task": job.recipe.task,
        "inputs": "data",
        "reference": steps.reference(job.recipe),
        "gates": job.recipe.gates.model_dump(exclude_none=True, exclude_defaults=True),
        "variants": _variant_facts(outcomes.values(), job.steps, artifacts),
        "devices": {name: entry(folder, job.places[name], found, job.recipe) for name, found in outcomes.items()},
    }


def measuring(recipe: Recipe) -> Measuring:
    """Return how long and how often a recipe measures."""
    options = recipe.options("measure")
    assert isinstance(options, Measuring)
    return options


def _order(job: Job, name: str, files: Mapping[str, Path], lock_clocks: bool, splits: Sequence[str]) -> Order:
    """Return what a device is to measure: its own variants, on the test and validation inputs."""
    device, data, options = job.devices[name], job.shop.data, measuring(job.recipe)
    models = {variant: files[source] for variant, source in steps.variants(device, job.steps).items()}
    feed = inspect(next(iter(models.values()))).inputs[0].name
    return Order(
        name,
        device,
        models=models,
        reference=steps.reference(job.recipe),
        splits={split: {feed: getattr(data, split).inputs} for split in splits},
        latency={feed: data.test.inputs[: options.batch_size]},
        options=options,
        lock_clocks=lock_clocks,
    )


def entry(folder: Path, place: Place, outcome: Outcome, recipe: Recipe | None = None) -> dict[str, Any]:
    """Return what run.json says of a device.

    Args:
        recipe: what the variants were made by, if one was.
    """
    sparse, remarks = (False, []) if recipe is None else (_sparse(recipe), steps.remarks(recipe, place.device))
    scheme = steps.schemes({"": place.device})[""]
    return {
        "profile": place.device.model_dump(mode="json"),
        "scheme": {**scheme.model_dump(), "label": scheme.label},
        "models": {
            variant: rundir.model_facts(folder, path) | (packing(path) if sparse else {})
            for variant, path in outcome.models.items()
        },
        "refused": dict(outcome.refused),
        "builds": [*remarks, *outcome.remarks],
        "error": outcome.error,
    }


def _sparse(recipe: Recipe) -> bool:
    return getattr(recipe.options("prune"), "sparsity", None) is not None


def _variant_facts(
    outcomes: Iterable[Outcome], made: Sequence[Step], artifacts: Mapping[str, Artifact]
) -> dict[str, Any]:
    """Return role, kind and size of the network of every variant, in the order of the chain."""
    exported = {step.variant: artifacts[step.label].facts for step in made if step.name == "export"}
    points = {step.variant: step.point for step in made if step.point}
    found: dict[str, Any] = {}
    for outcome in outcomes:
        for variant, path in outcome.models.items():
            role = variant.partition("-")[0]
            found[variant] = {
                "role": role if role in ("teacher", "baseline") else "candidate",
                "integers": bool(exported[path.stem]["quantized_layers"]),
                **{key: exported[path.stem][key] for key in ("parameters", "macs")},
                **({"point": points[path.stem]} if path.stem in points else {}),
            }
    return found
