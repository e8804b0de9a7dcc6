"""How good a network is on a split."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from edgekd.data import Split
from edgekd.errors import StageError
from edgekd.tasks import Task
from edgekd.training import ranks

BATCH = 125
"""Samples that pass together; what lies between the layers of many more leaves the caches of a processor."""


def evaluate(
    model: nn.Module,
    split: Split,
    task: Task,
    accelerator: Accelerator,
    layout: torch.memory_format = torch.contiguous_format,
    *,
    divided: bool = True,
) -> float:
    """Return the task's mean score on a split, as of `scores`."""
    return float(scores(model, split, task, accelerator, layout, divided=divided).mean())


def scores(
    model: nn.Module,
    split: Split,
    task: Task,
    accelerator: Accelerator,
    layout: torch.memory_format = torch.contiguous_format,
    *,
    divided: bool = True,
) -> np.ndarray:
    """Return the task's score of each sample, float64 (N,); the network is on the accelerator's device.

    Several processes have to ask together. Each gets the same scores, as if there were one.

    Args:
        divided: whether each process looks at its part of the samples, or at all of them.

    Raises:
        StageError: the task does not return one finite score per sample.
    """
    model.eval()
    found = np.zeros(len(split))
    rank, size = ranks.world() if divided else (0, 1)
    with torch.no_grad(), accelerator.autocast():
        for begin in range(rank * BATCH, len(split), size * BATCH):
            here = slice(begin, begin + BATCH)
            part = torch.from_numpy(split.inputs[here]).to(accelerator.device)
            outputs = model(part.contiguous(memory_format=layout)).float().cpu().numpy()
            found[here] = _checked(task.score({"outputs": outputs}, split.targets[here]), task, outputs)
    if size > 1:  # the others' scores are zero here, so that the sum is exact
        found = ranks.total(torch.from_numpy(found).to(accelerator.device)).cpu().numpy()
    return found


def _checked(scores: np.ndarray, task: Task, outputs: np.ndarray) -> np.ndarray:
    """Return the scores; with one that is not finite there would be no best epoch."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != outputs.shape[:1] or not np.isfinite(scores).all():
        found = f"shape {scores.shape}" if scores.shape != outputs.shape[:1] else "values that are not finite"
        raise StageError(f"task {task.name}: score() returned {found} for {len(outputs)} samples; expected one each")
    return scores
