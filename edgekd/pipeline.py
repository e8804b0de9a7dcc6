"""The whole chain: every stage from the store or by its work, every device measured, one verdict."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekd import artifact, checks, filing, making, profiles, rundir, steps
from edgekd import data as datasets
from edgekd import plan as planning
from edgekd.artifact import Artifact
from edgekd.dispatch import placing
from edgekd.dispatch.measurement import Dispatch
from edgekd.errors import UsageError
from edgekd.filing import Job
from edgekd.making import Show, Workshop
from edgekd.plan import Planned
from edgekd.profiles import Handling
from edgekd.recipe import Recipe
from edgekd.recording import Record, recorded
from edgekd.report import build
from edgekd.report.evidence import read_measurement
from edgekd.stages.distill import Options as Distillation
from edgekd.steps import Step

SMALLEST_FREE_BYTES = 256_000_000


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, the content of its report.json, and the exit code that the command line returns."""

    path: Path
    report: Mapping[str, Any]
    exit_code: int


@dataclass(frozen=True)
class More:
    """What a run has besides what the steps of its recipe made.

    Args:
        steps: of further variants; their artifacts by label, and what run.json says of them (`row`).
        content: further keys of run.json.
    """

    steps: Sequence[Step] = ()
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    rows: Sequence[dict[str, Any]] = ()
    content: Mapping[str, Any] = field(default_factory=dict)


Beyond = Callable[[Job, Mapping[str, Artifact], Handling], More]


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
    processes = planning.computing(recipe.compute).processes
    problems += [*checks.device_problems(recipe, chosen), *checks.budget_problems(recipe, places, processes)]
    checks.check(recipe, problems, data_dir)
    shop = open_workshop(recipe, store=store, data_dir=data_dir, accelerate_config=accelerate_config, show=show)
    batch = filing.measuring(recipe).batch_size
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
    beyond: Beyond | None = None,
) -> Result:
    """Run a recipe on devices.

    Args:
        devices: names of profiles, shipped ones or one's own, or paths of YAML files.
        handling: how devices are reached, and what may be done there.
        out: where the run's folder shall be. Default: `runs/` in the store.
        store: Default: EDGEKD_HOME, else `.edgekd`.
        data_dir: where downloaded data lie. Default: EDGEKD_DATA.
        accelerate_config: a configuration of Accelerate, for networks that are trained in parts (docs/scaling.md).
        beyond: makes more variants of what the recipe's steps made, which are measured beside them.

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
    with recorded(prepared.shop.store, prepared.shop.show, recipe.name, started, recipe, **facts) as record:
        record.planned(planned)
        shop = replace(prepared.shop, show=record.show, store=record.store)
        return _run(replace(prepared, shop=shop), record, team, handling, out, beyond)


def _run(
    prepared: Job,
    record: Record,
    team: Sequence[tuple[str, int]],
    handling: Handling,
    out: Path | None,
    beyond: Beyond | None,
) -> Result:
    """Do a run that was checked, with the other processes of its training."""
    recipe, shop = prepared.recipe, prepared.shop
    artifacts, rows = stages(prepared)
    more = beyond(prepared, artifacts, handling) if beyond else More()
    making.dismiss(team)
    job = replace(prepared, steps=(*prepared.steps, *more.steps))
    artifacts |= more.artifacts
    with rundir.replacing(record.target(out)) as folder:
        dispatch = Dispatch(folder, record.run_id, handling.keep, shop.show.say, shop.show.working, read_measurement)
        outcomes = filing.measure(job, artifacts, dispatch, lock_clocks=handling.lock_clocks)
        record.measured(outcomes)
        measured: list[dict[str, Any]] = [
            {"name": f"measure[{name}]", "artifact": None, "cached": False, "facts": {}, "seconds": found.seconds}
            for name, found in outcomes.items()
        ]
        data = rundir.data_facts(shop.data)
        content = filing.content(job, artifacts, outcomes, folder, record.run_id) | {
            "stages": [*rows, *more.rows, *measured],
            "provenance": rundir.provenance(record.started, recipe=recipe.resolved(), data=data),
            **more.content,
        }
        rundir.write(folder, content)
        report = build.write(folder)
        record.judged(folder, report)
    return Result(record.target(out), report, build.exit_code(report))


def stages(prepared: Job) -> tuple[dict[str, Artifact], list[dict[str, Any]]]:
    """Make every step's artifact, or take it from the store."""
    known: dict[str, Artifact] = {}
    rows = []
    for step in prepared.steps:
        found, cached = making.make(prepared.shop, prepared.recipe, step, known)
        known[step.label] = found
        rows.append(row(step.label, found, cached=cached))
    return known, rows


def row(label: str, found: Artifact, *, cached: bool) -> dict[str, Any]:
    """Return what run.json says of a step."""
    return {
        "name": label, "artifact": found.digest, "cached": cached, "seconds": found.seconds, "facts": found.facts,
    }  # fmt: skip
