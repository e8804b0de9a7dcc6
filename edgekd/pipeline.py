"""The whole chain: every stage from the store or by its work, every device measured, one verdict."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekd import artifact, checks, making, profiles, rundir, steps
from edgekd import data as datasets
from edgekd import plan as planning
from edgekd.artifact import Artifact
from edgekd.device import Device
from edgekd.dispatch import measurement, placing
from edgekd.dispatch.job import Order
from edgekd.dispatch.measurement import Dispatch, Outcome
from edgekd.dispatch.placing import Place
from edgekd.errors import UsageError
from edgekd.graph.lint import inspect
from edgekd.graph.packing import packing
from edgekd.making import Show, Workshop
from edgekd.plan import Planned
from edgekd.profiles import Handling
from edgekd.recipe import Recipe
from edgekd.recording import Record, recorded
from edgekd.report import build
from edgekd.report.evidence import read_measurement
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.measure import Options as Measuring
from edgekd.steps import Step

SMALLEST_FREE_BYTES = 256_000_000


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, the content of its report.json, and the exit code that the command line returns."""

    path: Path
    report: Mapping[str, Any]
    exit_code: int


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


def prepare(
    recipe: Recipe,
    devices: Sequence[str] | str,
    *,
    handling: Handling | None = None,
    out: Path | None = None,
    store: Path | None = None,
    data_dir: Path | None = None,
    accelerate_config: Path | None = None,
    show: Show | None = None,
) -> Job:
    """Check everything that can be checked before work, and load the data; the arguments are those of `run`.

    Raises:
        UsageError: something is wrong; no work was done.
        DeviceError: nothing can be made for a device that cannot be reached.
    """
    handling, show = handling or Handling(), show or Show()
    loaded = profiles.load_devices(devices, handling.at)
    if out is not None:
        rundir.check_target(out)
    places, problems = placing.place(loaded, bundle=handling.bundle, lock_clocks=handling.lock_clocks, say=show.say)
    chosen = {name: place.device for name, place in places.items()}
    checks.check(recipe, [*problems, *checks.device_problems(recipe, chosen)], data_dir)
    shop = open_workshop(recipe, store=store, data_dir=data_dir, accelerate_config=accelerate_config, show=show)
    batch = _measuring(recipe).batch_size
    if batch > len(shop.data.test):
        raise UsageError(
            f"measure.batch_size: {batch} samples are to be timed at once; the test split has {len(shop.data.test)}"
        )
    return Job(recipe, places, shop, steps.steps(recipe, chosen))


def open_workshop(
    recipe: Recipe, *, store: Path | None, data_dir: Path | None, accelerate_config: Path | None = None, show: Show
) -> Workshop:
    """Open the store and read the data of a recipe.

    Raises:
        UsageError: the store cannot be written, has no room, or the data cannot be read.
    """
    if accelerate_config is not None and not accelerate_config.is_file():
        raise UsageError(f"--accelerate-config {accelerate_config}: there is no such file")
    opened = artifact.open_store(store or artifact.default_root(), show.say)
    if shutil.disk_usage(opened.root).free < SMALLEST_FREE_BYTES:
        raise UsageError(f"less than 256 MB are free in the store {opened.root}; free some, or set EDGEKD_HOME")
    data = datasets.of_recipe(recipe.data, recipe.seed, data_dir, show.working("data"))
    return Workshop(opened, data, data_dir, planning.computing(recipe.compute, accelerate_config), show)


def plan(prepared: Job) -> list[Planned]:
    """Return each step, whether it is cached, and why it will run if not.

    Layers that a recipe names are looked for in the networks, which takes the seconds of loading torch.

    Raises:
        StageError: a layer is not there, or does not fit.
    """
    planned = _planned(prepared)
    distillation = prepared.recipe.options("distill")
    layered = isinstance(distillation, Distillation) and any(t.loss.on == "features" for t in distillation.terms())
    if layered and planning.installed("torch"):
        making.rehearse(prepared.shop, prepared.recipe, planned)
    return planned


def _planned(prepared: Job) -> list[Planned]:
    shop = prepared.shop
    return planning.plan(shop.store, prepared.recipe, prepared.steps, shop.data, shop.compute)


def run(
    recipe: Recipe,
    devices: Sequence[str] | str = ("cpu",),
    *,
    handling: Handling | None = None,
    out: Path | str | None = None,
    store: Path | None = None,
    data_dir: Path | None = None,
    accelerate_config: Path | None = None,
    show: Show | None = None,
) -> Result:
    """Run a recipe on devices.

    Args:
        devices: names of profiles, shipped ones or one's own, or paths of YAML files.
        handling: how devices are reached, and what may be done there.
        out: where the run's folder shall be. Default: `runs/` in the store.
        store: Default: EDGEKD_HOME, else `.edgekd`.
        data_dir: where downloaded data lie. Default: EDGEKD_DATA.
        accelerate_config: a configuration of Accelerate, for networks that are trained in parts (docs/scaling.md).

    Raises:
        SystemExit: 0, in the processes that only help the first one to train (`torchrun`), when they have done so.
        UsageError: found before any work.
        DeviceError: so was that nothing can be made for a device that cannot be reached.
        StageError: a stage failed; what is finished is kept, and the next run goes on from there.
    """
    started = datetime.now(UTC)
    out = Path(out) if out is not None else None
    handling = handling or Handling()
    prepared = prepare(
        recipe, devices, handling=handling, out=out, store=store, data_dir=data_dir,
        accelerate_config=accelerate_config, show=show,
    )  # fmt: skip
    team = making.assemble(prepared.shop, accelerate_config)
    if prepared.shop.compute.rank:
        making.follow(prepared.shop, recipe, prepared.steps)
        raise SystemExit(0)
    planned = _planned(prepared)
    making.rehearse(prepared.shop, recipe, planned)
    facts = {"kind": "pipeline", "recipe": recipe.name, "devices": list(prepared.places)}
    with recorded(prepared.shop.store, prepared.shop.show, recipe.name, started, **facts) as record:
        record.planned(planned)
        shop = replace(prepared.shop, show=record.show, store=record.store)
        return _run(replace(prepared, shop=shop), record, team, handling, out)


def _run(
    prepared: Job, record: Record, team: Sequence[tuple[str, int]], handling: Handling, out: Path | None
) -> Result:
    """Do a run that was checked, with the other processes of its training."""
    recipe, shop, made = prepared.recipe, prepared.shop, prepared.steps
    artifacts, rows = _stages(prepared)
    making.dismiss(team)
    with rundir.replacing(record.target(out)) as folder:
        files = rundir.export_files(folder, made, artifacts)
        orders = [_order(prepared, name, files, handling) for name in prepared.places]
        dispatch = Dispatch(folder, record.run_id, handling.keep, shop.show.say, shop.show.working, read_measurement)
        outcomes = measurement.take_all(dispatch, orders, prepared.places)
        record.measured(outcomes)
        rows += [{"name": f"measure[{name}]", "artifact": None, "cached": False, "facts": {}, "seconds": found.seconds}
                 for name, found in outcomes.items()]  # fmt: skip
        rundir.write_labels(folder, {"test": shop.data.test.targets, "validation": shop.data.validation.targets})
        content = {
            "schema": rundir.SCHEMA,
            "kind": "pipeline",
            "recipe": recipe.name,
            "run_id": record.run_id,
            "task": recipe.task,
            "inputs": "data",
            "reference": steps.reference(recipe),
            "gates": recipe.gates.model_dump(exclude_none=True, exclude_defaults=True),
            "variants": _variant_facts(outcomes.values(), made, artifacts),
            "devices": {name: entry(folder, prepared.places[name], found, recipe) for name, found in outcomes.items()},
            "stages": rows,
            "provenance": rundir.provenance(
                record.started, recipe=recipe.resolved(), data=rundir.data_facts(shop.data)
            ),
        }
        rundir.write(folder, content)
        report = build.write(folder)
        record.judged(folder, report)
    return Result(record.target(out), report, build.exit_code(report))


def _stages(prepared: Job) -> tuple[dict[str, Artifact], list[dict[str, Any]]]:
    """Make every step's artifact, or take it from the store."""
    known: dict[str, Artifact] = {}
    rows = []
    for step in prepared.steps:
        found, cached = making.make(prepared.shop, prepared.recipe, step, known)
        known[step.label] = found
        row = {"name": step.label, "artifact": found.digest, "cached": cached}
        rows.append({**row, "seconds": found.seconds, "facts": found.facts})
    return known, rows


def _order(prepared: Job, name: str, files: Mapping[str, Path], handling: Handling) -> Order:
    """Return what a device is to measure: its own variants, on the test and validation inputs."""
    device, data, options = prepared.devices[name], prepared.shop.data, _measuring(prepared.recipe)
    models = {variant: files[source] for variant, source in steps.variants(device, prepared.steps).items()}
    feed = inspect(next(iter(models.values()))).inputs[0].name
    return Order(
        name,
        device,
        models=models,
        reference=steps.reference(prepared.recipe),
        splits={"test": {feed: data.test.inputs}, "validation": {feed: data.validation.inputs}},
        latency={feed: data.test.inputs[: options.batch_size]},
        options=options,
        lock_clocks=handling.lock_clocks,
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


def _measuring(recipe: Recipe) -> Measuring:
    options = recipe.options("measure")
    assert isinstance(options, Measuring)
    return options


def _variant_facts(
    outcomes: Iterable[Outcome], made: Sequence[Step], artifacts: Mapping[str, Artifact]
) -> dict[str, Any]:
    """Return role, kind and size of the network of every variant, in the order of the chain."""
    exported = {step.variant: artifacts[step.label].facts for step in made if step.name == "export"}
    found: dict[str, Any] = {}
    for outcome in outcomes:
        for variant, path in outcome.models.items():
            role = variant.partition("-")[0]
            found[variant] = {
                "role": role if role in ("teacher", "baseline") else "candidate",
                "integers": bool(exported[path.stem]["quantized_layers"]),
                **{key: exported[path.stem][key] for key in ("parameters", "macs")},
            }
    return found
