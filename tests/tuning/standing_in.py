"""A worker in a process of its own whose trials are stand-ins without networks."""

from __future__ import annotations

import time
from typing import Any

import optuna

from edgekd.tuning import worker
from edgekd.tuning.trial import Bench, chosen
from edgekd.tuning.worker import Order

LIMIT_S = 120.0
DOOMED = 4
"""The trial that never ends: whoever has it is killed."""


def score(values: dict[str, Any]) -> float:
    return values["distill.temperature"] / 10 - values.get("student.learning_rate", 0)


def attempt(bench: Bench, trial: optuna.Trial) -> float:
    """Score a trial by a formula, after a while."""
    time.sleep(0.05)
    return score(chosen(bench.variations, trial))


def work(order: Order) -> None:
    """Be a worker, to whom one trial takes for ever."""
    worker.attempt = slow_once
    worker.work(order)


def slow_once(bench: Bench, trial: optuna.Trial) -> float:
    if trial.number == DOOMED:
        chosen(bench.variations, trial)
        time.sleep(LIMIT_S)
    return attempt(bench, trial)
