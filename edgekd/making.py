"""Steps become artifacts: from the store, or by a stage's work, alone or with the other processes of a training.

Under `torchrun` every process runs the same command. The first one leads: it looks into the store, runs what does not
train, measures and reports. The others train with it when it says so, and leave before anything is measured.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgekd import artifact, checks
from edgekd import data as datasets
from edgekd import plan as planning
from edgekd.artifact import Artifact, Store
from edgekd.data import Data
from edgekd.errors import UsageError
from edgekd.plan import Compute, Planned
from edgekd.recipe import Recipe
from edgekd.stage import Inputs, Judged, Progress, silent, unjudged
from edgekd.steps import Step

REHEARSAL = "edgekd.distill.rehearsal:rehearse"
LISTING = "edgekd.distill.rehearsal:listing"
RANKS = "edgekd.training.ranks"


@dataclass(frozen=True)
class Show:
    """How a run tells what it does; the defaults are silent.

    Args:
        say: one line.
        working: a long piece of work begins; returns what takes its progress.
        judging: likewise, what takes the curves of a training, epoch by epoch.
        note: an event by name, with its facts, for logs and for who wants to know more.
    """

    say: Callable[[str], None] = lambda text: None
    working: Callable[[str], Progress] = lambda title: silent
    judging: Callable[[str], Judged] = lambda title: unjudged
    note: Callable[[str, Mapping[str, Any]], None] = lambda event, facts: None


@dataclass(frozen=True)
class Workshop:
    """Where steps are made: the store, the data, what trains, and who watches."""

    store: Store
    data: Data
    data_dir: Path | None
    compute: Compute
    show: Show


def make(shop: Workshop, recipe: Recipe, step: Step, known: Mapping[str, Artifact]) -> tuple[Artifact, bool]:
    """Return a step's artifact, and whether it was there already.

    Args:
        known: the artifacts so far, by the labels of their steps.

    Raises:
        StageError: the work failed.
    """
    inputs = {role: known[label] for role, label in step.needs.items()}
    parts = planning.parts(step, recipe, shop.data, inputs, shop.compute)

    def lead(out: Path) -> Mapping[str, Any]:
        shop.show.note("start", {"step": step.label, "folder": out})
        if shop.compute.processes > 1 and step.stage.trains:
            _ranks().tell({"step": step.label, "out": str(out), "inputs": {r: str(a.path) for r, a in inputs.items()}})
        return _work(shop, recipe, step, inputs, out)

    found, cached = artifact.build(shop.store, step.name, parts, lead)
    shop.show.note(
        "step", {"step": step.label, "cached": cached, "seconds": found.seconds, "artifact": found.path.name}
    )
    shop.show.say(f"{step.label:<24} {'cached' if cached else f'done in {found.seconds:.1f} s'}{_gist(found)}")
    return found, cached


def follow(shop: Workshop, recipe: Recipe, made: Iterable[Step]) -> None:
    """Train with the leading process whenever it says so, until it says that the training is over."""
    by_label = {step.label: step for step in made}
    while (message := _ranks().tell(None)) is not None:
        inputs = {role: artifact.read(Path(path)) for role, path in message["inputs"].items()}
        _work(shop, recipe, by_label[message["step"]], inputs, Path(message["out"]))
    _ranks().leave()


def assemble(shop: Workshop, accelerate_config: Path | None) -> list[tuple[str, int]]:
    """Meet the other processes of this training, if there are any, and return the machine and process id of each.

    Raises:
        UsageError: Accelerate's configuration cannot be read.
        StageError: they cannot be reached.
    """
    if accelerate_config is not None:
        _ranks().configure(accelerate_config)
    if shop.compute.processes == 1:
        return []
    _ranks().start(shop.compute.kind)
    found: list[tuple[str, int]] = _ranks().pids()
    return found


def dismiss(team: Sequence[tuple[str, int]]) -> None:
    """Let the other processes go, and wait until they have left this machine's processors."""
    if team:
        _ranks().tell(None)
        _ranks().leave()
        _ranks().wait_until_left(team)


def rehearse(shop: Workshop, recipe: Recipe, planned: Sequence[Planned]) -> None:
    """Where something must be made, look at the networks before any of it: training may take hours.

    Raises:
        UsageError: a package that is needed is not installed.
        StageError: the networks, the layers or the losses do not fit.
    """
    _require(sorted({name for one in planned if one.artifact is None for name in one.step.stage.packages}))
    waiting = [one.step.stage for one in planned if one.artifact is None]
    if waiting:
        own = [stage.rehearsal for stage in waiting if stage.rehearsal]
        for name in dict.fromkeys([REHEARSAL, *own]):
            _function(name)(recipe, shop.data)


def layers(recipe: Recipe, data_dir: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Return the named layers of a recipe's networks, by role: name, kind, shape and given of each.

    Raises:
        UsageError: the recipe or its data are not right, or torch is not installed.
        StageError: a network cannot be built.
    """
    checks.check(recipe, (), data_dir)
    _require(["torch"])
    data = datasets.of_recipe(recipe.data, recipe.seed, data_dir)
    return {role: [asdict(layer) for layer in found] for role, found in _function(LISTING)(recipe, data).items()}


def _require(packages: Sequence[str]) -> None:
    missing = [package for package in packages if not planning.installed(package)]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not installed, and needed for what must run: pip install 'edgekd[train]'"
        )


def _work(shop: Workshop, recipe: Recipe, step: Step, inputs: Mapping[str, Artifact], out: Path) -> Mapping[str, Any]:
    """Run a stage's work function, which is imported only now."""
    given = Inputs(
        artifacts=inputs,
        blocks={name: step.block(recipe, name) for name in step.stage.reads},
        data=recipe.data.model_copy(update={"omit": ()}) if step.stage.per == "teacher" else recipe.data,
        data_dir=shop.data_dir,
        task=recipe.task,
        seed=recipe.seed,
        data_seed=planning.data_seed(recipe),
        compute=shop.compute.kind,
        variant=step.variant,
        context=step.context,
        metadata={"recipe": recipe.name},
        progress=shop.show.working(step.label),
        judged=shop.show.judging(step.label),
    )
    work: Callable[..., Mapping[str, Any]] = _function(step.stage.work)
    return work(step.block(recipe, step.name), given, out)


def _gist(found: Artifact) -> str:
    score = found.facts.get("validation")
    return f"   validation {score:.4f}" if isinstance(score, float) else ""


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


_ranks = partial(importlib.import_module, RANKS)
