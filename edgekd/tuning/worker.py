"""Workers: each takes trials from one storage until there are enough, whoever else works beside it, here or elsewhere.

A trial counts when it is finished. One whose worker is gone has no sign of life any more; whoever notices makes it wait
to be tried again, with the values that it had.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import cast

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from edgekd import pipeline
from edgekd.agent.sealing import digest_of
from edgekd.errors import EdgekdError, StageError
from edgekd.making import Show
from edgekd.tuning.storage import LOST, Heartbeat, again, opened, reason, shown
from edgekd.tuning.trial import WORKER, Bench, attempt
from edgekd.tuning.variations import Variations, Written

SURPLUS = "surplus"
POLL_S = 1.0
INTERRUPTED = 130
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Order:
    """What a worker is told: plain data, for a process of its own."""

    written: Written
    storage: str
    study: str
    store: Path
    data_dir: Path | None
    heartbeat: Heartbeat
    cores: frozenset[int] | None = None


def work(order: Order) -> None:
    """Be a worker in a process of its own, and end it."""
    signal.signal(signal.SIGTERM, _interrupt)
    parent = os.getppid()
    warnings.simplefilter("ignore")  # the first process has told them
    try:
        variations = Variations(order.written)
        shop = pipeline.open_workshop(variations.recipe, store=order.store, data_dir=order.data_dir, show=Show())
        bench = Bench(shop, variations, order.cores)
        with opened(order.storage, order.heartbeat) as storage:
            study = optuna.load_study(study_name=order.study, storage=storage)
            run(bench, study, order, wanted=lambda: os.getppid() == parent)
    except EdgekdError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def run(
    bench: Bench,
    study: Study,
    order: Order,
    *,
    wanted: Callable[[], bool] = lambda: True,
    ended: Callable[[FrozenTrial], None] = lambda trial: None,
) -> None:
    """Take trials until there are enough.

    Args:
        wanted: whether to begin one more.
        ended: told of each.

    Raises:
        StageError: the storage is gone.
    """
    search = bench.variations.search
    study.pruner, study.sampler = _pruner(bench.variations), _sampler(bench.variations, 0)
    try:
        while wanted():
            _notice_lost(study, order.heartbeat)
            counted = counting(study.get_trials(deepcopy=False))
            finished = sum(trial.state in FINISHED for trial in counted)
            if finished >= search.trials:
                return
            waiting = any(trial.state == TrialState.WAITING for trial in counted)
            if waiting or len(counted) < search.trials:
                _one(bench, study, ended)
            else:
                time.sleep(POLL_S)  # others are at the last ones, and may be lost
    except LOST as error:
        raise StageError(
            f"the storage {shown(order.storage)} was lost: {reason(error, order.storage)}; finished trials are kept "
            "there: run the same command again to go on"
        ) from error


def counting(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count: no surplus, and of one that was tried again only the newest."""
    retried = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    return [trial for trial in trials if trial.number not in retried and not trial.user_attrs.get(SURPLUS)]


def share(index: int, workers: int) -> frozenset[int] | None:
    """Return the processors of one of several workers; None, which is all, where there are not enough."""
    every = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    size = len(every) // workers
    return frozenset(every[index * size : (index + 1) * size]) if workers > 1 and size else None


def _one(bench: Bench, study: Study, ended: Callable[[FrozenTrial], None]) -> None:
    """Run one trial; one that fails is told, and is no reason to end."""
    current: list[Trial] = []

    def objective(trial: Trial) -> float:
        current.append(trial)
        # Optuna's thread gives a first sign of life at some time; `_notice_lost` counts on it from here on.
        cast(RDBStorage, study._storage).record_heartbeat(trial._trial_id)
        trial.set_user_attr(WORKER, f"{os.uname().nodename}:{os.getpid()}")
        counted = [one.number for one in counting(study.get_trials(deepcopy=False))]
        if sorted(counted).index(trial.number) >= bench.variations.search.trials:
            trial.set_user_attr(SURPLUS, True)  # several workers asked for the last one
            raise optuna.TrialPruned
        study.sampler = _sampler(bench.variations, trial.number)
        return attempt(bench, trial)

    try:
        study.optimize(objective, n_trials=1, catch=(EdgekdError,), callbacks=[lambda _, trial: ended(trial)])
    except KeyboardInterrupt:
        for trial in current:
            again()(study, study.trials[trial.number])
        raise
    except (UpdateFinishedTrialError, ValueError):
        # This process slept so long that the trial was given to another one.
        if not current or study.trials[current[0].number].state not in FINISHED:
            raise


def _notice_lost(study: Study, heartbeat: Heartbeat) -> None:
    """Let trials without a sign of life wait to be tried again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        # One whose worker died before the first sign never had one.
        begun = trial.datetime_start
        if WORKER not in trial.user_attrs and begun and (datetime.now() - begun).total_seconds() > heartbeat.grace_s:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            again()(study, trial)


def _sampler(variations: Variations, number: int) -> TPESampler:
    """Return the sampler of a trial, which follows from the seed and the trials so far alone."""
    seed = int(digest_of([variations.recipe.seed, number])[:8], 16)
    return TPESampler(n_startup_trials=variations.search.startup, multivariate=False, seed=seed)


def _pruner(variations: Variations) -> BasePruner:
    if not variations.search.pruner:
        return NopPruner()
    return MedianPruner(n_startup_trials=variations.search.startup)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
