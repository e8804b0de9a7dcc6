"""Several workers on this machine, and what they do as it is told meanwhile."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.context import SpawnProcess

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from edgekd.errors import StageError
from edgekd.making import Show
from edgekd.tuning import worker
from edgekd.tuning.worker import FINISHED, Order

POLL_S = 0.5
PATIENCE_S = 30.0


def run(
    order: Order, study: Study, workers: int, trials: int, show: Show, ended: Callable[[FrozenTrial], None]
) -> None:
    """Start workers and wait until there are enough trials.

    Args:
        ended: told of each trial that ends meanwhile.

    Raises:
        StageError: all workers ended before.
    """
    context = multiprocessing.get_context("spawn")
    crew = [
        context.Process(target=worker.work, args=(replace(order, cores=worker.share(index, workers)),))
        for index in range(workers)
    ]
    told = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state in FINISHED}
    progress = show.working("search")
    for process in crew:
        process.start()
    try:
        working = list(crew)
        while working:
            time.sleep(POLL_S)
            found = study.get_trials(deepcopy=False)
            for trial in found:
                if trial.state in FINISHED and trial.number not in told:
                    told.add(trial.number)
                    ended(trial)
            counted = worker.counting(found)
            progress(sum(trial.state in FINISHED for trial in counted), trials, _running(found))
            for process in [one for one in working if not one.is_alive()]:
                working.remove(process)
                if process.exitcode:
                    show.say(_left(process, len(working)))
    finally:
        _dismiss(crew)
    if any(process.exitcode for process in crew):
        finished = sum(trial.state in FINISHED for trial in worker.counting(study.get_trials(deepcopy=False)))
        if finished < trials:
            raise StageError(
                f"all workers ended, after {finished} of {trials} trials; run the same command again to go on"
            )


def _running(found: Sequence[FrozenTrial]) -> str:
    """Return what is at work: "trial 4 (epoch 2: 0.9310), trial 5"."""
    told = []
    for trial in found:
        if trial.state == TrialState.RUNNING:
            epoch = max(trial.intermediate_values, default=None)
            at = f" (epoch {epoch}: {trial.intermediate_values[epoch]:.4f})" if epoch is not None else ""
            told.append(f"trial {trial.number}{at}")
    return ", ".join(told)


def _left(process: SpawnProcess, others: int) -> str:
    code = process.exitcode or 0
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"failed with exit code {code}"
    then = "the others try its trial again" if others else "no worker is left"
    return f"a worker {how}; {then}"


def _dismiss(crew: Sequence[SpawnProcess]) -> None:
    """End the workers that are left, which happens when this process is interrupted."""
    for process in crew:
        if process.is_alive():
            process.terminate()
    for process in crew:
        process.join(PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join()
