"""A whole search: checks, the trials, the best of them against the recipe as it is, and what is written of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from edgekd import artifact, checks, lessons, making, pipeline, rundir, steps
from edgekd import plan as planning
from edgekd.document import DocumentError, Problem
from edgekd.errors import StageError, UsageError
from edgekd.making import Show, Workshop
from edgekd.recording import recorded
from edgekd.tuning import crew, outcome, worker
from edgekd.tuning.storage import Heartbeat, opened
from edgekd.tuning.trial import AS_IT_IS, Bench, fixed
from edgekd.tuning.variations import SPACE, Changes, Variations, told, written
from edgekd.tuning.worker import Order

FILE = "search.json"


@dataclass(frozen=True)
class Found:
    """A finished search: its folder, and the content of its search.json."""

    path: Path
    results: Mapping[str, Any]


def run(
    recipe: str,
    *,
    overrides: Sequence[str] = (),
    workers: int = 1,
    storage: str | None = None,
    out: Path | None = None,
    store: Path | None = None,
    data_dir: Path | None = None,
    heartbeat: Heartbeat | None = None,
    show: Show | None = None,
) -> Found:
    """Search a recipe's space.

    Args:
        recipe: a shipped recipe's name or the path of a YAML file, with a block `search`.
        overrides: `key=value` changes of the recipe.
        workers: processes on this machine, each with its part of the processors.
        storage: where trials are kept: sqlite:///FILE, or postgresql://... for workers on several machines. Default: a
            file in the store.
        out: where the search's folder shall be. Default: `runs/` in the store.

    Raises:
        UsageError: found before any work.
        StageError: what all students need could not be made, or no trial succeeded; what is finished is kept.
    """
    started, show = datetime.now(UTC), show or Show()
    variations = Variations(written(recipe, tuple(overrides)))
    valid = partial(checks.check, found=(), data_dir=data_dir)
    valid(variations.recipe)
    variations.check(valid)
    if out is not None:
        rundir.check_target(out, FILE)
    root = artifact.open_store(store or artifact.default_root(), show.say).root
    heartbeat = heartbeat or Heartbeat()
    if storage:
        with opened(storage, heartbeat):  # whether it is there: the first thing to know
            pass
    shop = pipeline.open_workshop(variations.recipe, store=root, data_dir=data_dir, show=show)
    if shop.compute.processes > 1:
        raise UsageError("the workers of a search are processes of their own: use --workers, without torchrun")
    _rehearse(shop, variations)
    name = f"{rundir.plain(variations.recipe.name)}-{variations.digest(shop.data.digest)[:12]}"
    (root / "searches").mkdir(exist_ok=True)
    order = Order(
        variations.written, storage or f"sqlite:///{root / 'searches' / name}.db", name, root, data_dir, heartbeat
    )
    facts = {"kind": "search", "recipe": variations.recipe.name, "search": name, "workers": workers}
    with recorded(shop.store, show, f"search-{variations.recipe.name}", started, variations.recipe, **facts) as record:
        bench = Bench(replace(shop, show=record.show, store=record.store), variations)
        with opened(order.storage, heartbeat) as kept:
            study = _study(kept, name, variations)
            _work(bench, study, order, workers)
            results = outcome.results(bench, study, order, record.run_id, started)
        with rundir.replacing(record.target(out)) as folder:
            outcome.write(folder, results, variations)
            record.finish(folder, counts=results["counts"], best=results["best"], exit_code=0)
    return Found(record.target(out), results)


def _rehearse(shop: Workshop, variations: Variations) -> None:
    """Look at the networks and losses of every value, each kind once, before any of them is trained.

    Raises:
        StageError: those of the recipe as it is do not fit.
        DocumentError: those of some values do not.
    """
    seen: set[str] = set()
    problems = []
    none: Changes = {}
    for changes in (none, *variations.extremes()):
        recipe = variations.trial(changes)
        networks = {role: [one.model, one.arguments(), one.weights] for role, one in recipe.networks().items()}
        kind = repr([networks, recipe.options("distill")])
        if kind in seen:
            continue
        seen.add(kind)
        planned = planning.plan(shop.store, recipe, steps.training_steps(recipe), shop.data, shop.compute)
        try:
            making.rehearse(shop, recipe, planned)
        except StageError as error:
            if not changes:
                raise
            problems.append(Problem(SPACE, None, told(changes), str(error)))
    if problems:
        raise DocumentError(variations.written.source, problems)


def _study(storage: RDBStorage, name: str, variations: Variations) -> Study:
    """Return the search as it is kept so far; its first trial is the recipe as it is."""
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    except DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(fixed(variations.own(), variations), user_attrs={AS_IT_IS: True})
    return study


def _work(bench: Bench, study: Study, order: Order, workers: int) -> None:
    """Let workers take trials until there are enough: this process, or several of their own."""
    shop, search = bench.shop, bench.variations.search

    def ended(trial: FrozenTrial) -> None:
        if not trial.user_attrs.get(worker.SURPLUS):
            shop.show.say(outcome.line(trial))

    if workers == 1:
        worker.run(bench, study, order, ended=ended)
        return
    # What most trials share is made first, with all processors.
    lessons.prepared(bench.variations.trial({}), shop, bench.made)
    crew.run(order, study, workers, search.trials, shop.show, ended)
