"""What a network is for: how its outputs are scored and what it is trained on. One file per task."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from edgekd.errors import StageError, UsageError
from edgekd.plugin import load as load_plugin
from edgekd.shipped import shipped_modules

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """A task. All but `loss` works on numpy arrays, so that a report needs no framework.

    Args:
        metric: the score's name, such as "accuracy".
        score: (outputs by name, targets (N, ...)) -> float64 (N,), each in [0, 1], larger is better.
        agreement: (outputs, outputs of the teacher) -> float64 (N,), each in [0, 1].
        loss: (torch logits, torch targets) -> scalar torch tensor, the mean over the batch. Options by keyword:
            `label_smoothing`.
    """

    name: str
    metric: str
    score: Callable[[Arrays, np.ndarray], np.ndarray]
    agreement: Callable[[Arrays, Arrays], np.ndarray]
    loss: Callable[..., Any]


def shipped_tasks() -> list[str]:
    """Return the names of the shipped tasks."""
    return shipped_modules("tasks")


@cache
def load(name: str) -> Task:
    """Return a task by its file's name here, or by "package.module:function" that returns a `Task`.

    Raises:
        UsageError: there is no such task.
        StageError: the user's function returned something else.
    """
    if ":" in name:
        task = load_plugin(name)()
        if not isinstance(task, Task):
            raise StageError(f"task {name} returned {type(task).__name__}; it must return an edgekd.tasks.Task")
        return task
    if name not in shipped_tasks():
        raise UsageError(f'no task {name!r} (shipped: {", ".join(shipped_tasks())}; or "package.module:function")')
    task = importlib.import_module(f"{__name__}.{name}").TASK
    assert isinstance(task, Task)
    return task
