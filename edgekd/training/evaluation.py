"""How good a network is on a split."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from edgekd.data import Split
from edgekd.errors import StageError
from edgekd.tasks import Task

BATCH = 500


def evaluate(
    model: nn.Module,
    split: Split,
    task: Task,
    accelerator: Accelerator,
    layout: torch.memory_format = torch.contiguous_format,
) -> float:
    """Return the task's mean score on a split; the network is on the accelerator's device.

    Raises:
        StageError: the task does not return one finite score per sample.
    """
    model.eval()
    scores = []
    with torch.no_grad(), accelerator.autocast():
        for begin in range(0, len(split), BATCH):
            part = torch.from_numpy(split.inputs[begin : begin + BATCH]).to(accelerator.device)
            outputs = model(part.contiguous(memory_format=layout)).float().cpu().numpy()
            scores.append(
                _checked(task.score({"outputs": outputs}, split.targets[begin : begin + BATCH]), task, outputs)
            )
    return float(np.concatenate(scores).mean())


def _checked(scores: np.ndarray, task: Task, outputs: np.ndarray) -> np.ndarray:
    """Return the scores; with one that is not finite there would be no best epoch."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != outputs.shape[:1] or not np.isfinite(scores).all():
        found = f"shape {scores.shape}" if scores.shape != outputs.shape[:1] else "values that are not finite"
        raise StageError(f"task {task.name}: score() returned {found} for {len(outputs)} samples; expected one each")
    return scores
