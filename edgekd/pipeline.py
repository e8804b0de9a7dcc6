"""The whole chain: every stage from the store or by its work, every device measured, one verdict."""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from edgekd import artifact, rundir
from edgekd import data as datasets
from edgekd import device as profiles
from edgekd import plan as planning
from edgekd.artifact import Artifact, Store
from edgekd.data import Data
from edgekd.device import Device
from edgekd.dispatch import measurement
from edgekd.errors import UsageError
from edgekd.graph.lint import inspect
from edgekd.plan import Planned, Step
from edgekd.recipe import Recipe
from edgekd.report import build
from edgekd.stage import Inputs, Progress, silent
from edgekd.stages.measure import Options as Measuring

SMALLEST_FREE_BYTES = 256_000_000
REHEARSAL = "edgekd.training.rehearsal:rehearse"


@dataclass(frozen=True)
class Show:
    """How a run tells what it does; the defaults are silent.

    Args:
        say: one line.
        working: a long piece of work begins; returns what takes its progress.
    """

    say: Callable[[str], None] = lambda text: None
    working: Callable[[str], Progress] = lambda title: silent


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
    devices: Mapping[str, Device]
    store: Store
    data: Data
    data_dir: Path | None
    compute: str
    show: Show


def prepare(
    recipe: Recipe,
    devices: Sequence[str] | str,
    *,
    out: Path | None = None,
    store: Path | None = None,
    data_dir: Path | None = None,
    show: Show | None = None,
) -> Job:
    """Check everything that can be checked before work, and load the data; the arguments are those of `run`.

    Raises:
        UsageError: something is wrong; no work was done.
    """
    show = show or Show()
    loaded = profiles.load_devices(devices)
    if out is not None:
        rundir.check_target(out)
    planning.check(recipe, loaded, data_dir)
    opened = artifact.open_store(store or artifact.default_root(), show.say)
    if shutil.disk_usage(opened.root).free < SMALLEST_FREE_BYTES:
        raise UsageError(f"less than 256 MB are free in the store {opened.root}; free some, or set EDGEKD_HOME")
    data = datasets.of_recipe(recipe.data, recipe.seed, data_dir, show.working("data"))
    batch = _measuring(recipe).batch_size
    if batch > len(data.test):
        raise UsageError(
            f"measure.batch_size: {batch} samples are to be timed at once; the test split has {len(data.test)}"
        )
    return Job(recipe, loaded, opened, data, data_dir, planning.compute_kind(recipe.compute), show)


def plan(prepared: Job) -> list[Planned]:
    """Return each step, whether it is cached, and why it will run if not."""
    return planning.plan(prepared.store, prepared.recipe, prepared.devices, prepared.data, prepared.compute)


def run(
    recipe: Recipe,
    devices: Sequence[str] | str = ("cpu",),
    *,
    out: Path | str | None = None,
    store: Path | None = None,
    data_dir: Path | None = None,
    show: Show | None = None,
) -> Result:
    """Run a recipe on devices.

    Args:
        devices: shipped profiles' names, or paths of YAML files.
        out: where the run's folder shall be. Default: `runs/` in the store.
        store: Default: EDGEKD_HOME, else `.edgekd`.
        data_dir: where downloaded data lie. Default: EDGEKD_DATA.

    Raises:
        UsageError: found before any work.
        StageError: a stage failed; what is finished is kept, and the next run goes on from there.
    """
    started = datetime.now(UTC)
    out = Path(out) if out is not None else None
    prepared = prepare(recipe, devices, out=out, store=store, data_dir=data_dir, show=show)
    made = planning.steps(recipe, prepared.devices)
    _rehearse(prepared)
    artifacts, rows = _stages(prepared, made)
    run_id = rundir.new_id(recipe.name, started)
    target = out if out is not None else prepared.store.root / "runs" / run_id
    with rundir.replacing(target) as folder:
        files = _export_files(folder, made, artifacts)
        measured = {name: _measure(prepared, folder, name, made, files) for name in prepared.devices}
        rows += [{"name": f"measure[{name}]", "artifact": None, "cached": False, "facts": {}, "seconds": seconds}
                 for name, (_, seconds) in measured.items()]  # fmt: skip
        rundir.write_labels(
            folder, {"test": prepared.data.test.targets, "validation": prepared.data.validation.targets}
        )
        content = {
            "schema": rundir.SCHEMA,
            "kind": "pipeline",
            "recipe": recipe.name,
            "run_id": run_id,
            "task": recipe.task,
            "inputs": "data",
            "reference": "teacher",
            "gates": recipe.gates.model_dump(exclude_none=True, exclude_defaults=True),
            "variants": _variant_facts(prepared, made, artifacts),
            "devices": {name: entry for name, (entry, _) in measured.items()},
            "stages": rows,
            "provenance": rundir.provenance(started, recipe=recipe.resolved(), data=_data_facts(prepared.data)),
        }
        rundir.write(folder, content)
        report = build.write(folder)
    return Result(target, report, build.exit_code(report))


def _rehearse(prepared: Job) -> None:
    """Where something must be made, look at the networks before any of it: training may take hours."""
    planned = plan(prepared)
    missing = planning.missing_packages(planned)
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not installed, and needed for what must run: pip install 'edgekd[train]'"
        )
    if any(one.artifact is None for one in planned):
        module, _, function = REHEARSAL.partition(":")
        rehearse = getattr(importlib.import_module(module), function)
        rehearse(planning.networks(prepared.recipe), prepared.data, prepared.recipe.seed)


def _stages(prepared: Job, made: Sequence[Step]) -> tuple[dict[str, Artifact], list[dict[str, Any]]]:
    """Make every step's artifact, or take it from the store."""
    known: dict[str, Artifact] = {}
    rows = []
    for step in made:
        inputs = {role: known[label] for role, label in step.needs.items()}
        parts = planning.parts(step, prepared.recipe, prepared.data, inputs, prepared.compute)
        work = partial(_work, prepared, step, inputs)
        known[step.label], cached = artifact.build(prepared.store, step.name, parts, work)
        found = known[step.label]
        row = {"name": step.label, "artifact": found.digest, "cached": cached}
        rows.append({**row, "seconds": found.seconds, "facts": found.facts})
        prepared.show.say(f"{step.label:<24} {'cached' if cached else f'done in {found.seconds:.1f} s'}{_gist(found)}")
    return known, rows


def _gist(found: Artifact) -> str:
    score = found.facts.get("validation")
    return f"   validation {score:.4f}" if isinstance(score, float) else ""


def _work(prepared: Job, step: Step, inputs: Mapping[str, Artifact], out: Path) -> Mapping[str, Any]:
    """Run a stage's work function, which is imported only now."""
    recipe = prepared.recipe
    module, _, function = step.stage.work.partition(":")
    given = Inputs(
        artifacts=inputs,
        blocks={name: recipe.options(name) for name in step.stage.reads},
        data=recipe.data,
        data_dir=prepared.data_dir,
        task=recipe.task,
        seed=recipe.seed,
        compute=prepared.compute,
        variant=step.variant,
        context=step.context,
        metadata={"recipe": recipe.name},
        progress=prepared.show.working(step.label),
    )
    work: Callable[..., Mapping[str, Any]] = getattr(importlib.import_module(module), function)
    return work(recipe.options(step.name), given, out)


def _export_files(folder: Path, made: Sequence[Step], artifacts: Mapping[str, Artifact]) -> dict[str, Path]:
    """Copy the ONNX files into the run's folder and return them by variant."""
    (folder / "models").mkdir()
    files = {}
    for step in made:
        if step.name == "export":
            found = artifacts[step.label]
            files[step.variant] = folder / "models" / f"{step.variant}.onnx"
            shutil.copyfile(found.path / found.facts["file"], files[step.variant])
    return files


def _measure(
    prepared: Job, folder: Path, name: str, made: Sequence[Step], files: Mapping[str, Path]
) -> tuple[dict[str, Any], float]:
    """Measure all variants on a device and return its entry for run.json, and the seconds it took."""
    device, data = prepared.devices[name], prepared.data
    scheme = planning.schemes({name: device})[name]
    chosen = {variant: files[source] for variant, source in planning.variants(scheme, made).items()}
    options = _measuring(prepared.recipe)
    feed = inspect(next(iter(chosen.values()))).inputs[0].name
    started = time.monotonic()
    error = measurement.take(
        folder / "measurements" / name,
        name=name,
        device=device,
        models=chosen,
        reference="teacher",
        splits={"test": {feed: data.test.inputs}, "validation": {feed: data.validation.inputs}},
        latency={feed: data.test.inputs[: options.batch_size]},
        options=options,
        progress=prepared.show.working(f"measure[{name}]"),
    )
    seconds = round(time.monotonic() - started, 3)
    prepared.show.say(
        f"{f'measure[{name}]':<24} " + (f"failed: {error['message']}" if error else f"done in {seconds:.1f} s")
    )
    entry = {
        "profile": device.model_dump(mode="json"),
        "scheme": {**scheme.model_dump(), "label": scheme.label},
        "models": {variant: rundir.model_facts(folder, path) for variant, path in chosen.items()},
        "error": error,
    }
    return entry, seconds


def _measuring(recipe: Recipe) -> Measuring:
    options = recipe.options("measure")
    assert isinstance(options, Measuring)
    return options


def _variant_facts(prepared: Job, made: Sequence[Step], artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """Return parameters and MACs of every variant, in the order of the chain."""
    exported = {step.variant: artifacts[step.label].facts for step in made if step.name == "export"}
    found: dict[str, Any] = {}
    for scheme in planning.schemes(prepared.devices).values():
        for variant, source in planning.variants(scheme, made).items():
            found[variant] = {key: exported[source][key] for key in ("parameters", "macs")}
    return found


def _data_facts(data: Data) -> dict[str, Any]:
    counts = {name: len(getattr(data, name).targets) for name in ("train", "validation", "test")}
    return {"name": data.name, "digest": data.digest, "counts": counts, "classes": list(data.classes)}
