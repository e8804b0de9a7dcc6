"""The bias of classes that a student never saw, set by what is best on the validation split.

A student that learns from a teacher's answers alone knows a class it never saw, but thinks it is rare, because in its
samples it was (Hinton, Vinyals, Dean 2015, section 3, who raised that class's bias).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.data import Data
from edgekd.distill.layers import layers
from edgekd.errors import StageError
from edgekd.tasks import Task

SHIFTS = np.arange(-20.0, 20.05, 0.1)
ROUNDS = 2
BLOCK = 500


def correct(
    model: nn.Module, data: Data, omitted: Sequence[int], task: Task, bias: Tensor | None = None
) -> dict[str, float]:
    """Shift the biases of omitted classes in place to where the validation score is highest.

    Args:
        model: on the CPU; it ends in a linear layer with one output per class.
        omitted: the classes' indices.
        bias: that of the last layer, where the network is a graph that has no named layers.

    Returns:
        The shift of each class, by its name.

    Raises:
        StageError: the network does not end in such a layer.
    """
    split = data.validation
    with torch.no_grad():
        parts = [
            model.eval()(torch.from_numpy(split.inputs[begin : begin + BLOCK])) for begin in range(0, len(split), BLOCK)
        ]
    answers = torch.cat(parts).float().numpy()
    shifted = _last(model, data).bias if bias is None else bias
    shifts = best_shifts(answers, split.targets, omitted, task)
    with torch.no_grad():
        for index, shift in shifts.items():
            shifted[index] += shift
    return {data.classes[index]: round(shift, 1) for index, shift in shifts.items()}


def best_shifts(answers: np.ndarray, targets: np.ndarray, omitted: Sequence[int], task: Task) -> dict[int, float]:
    """Return what to add to the answers of omitted classes, one class after the other; of equally good ones the least.

    Args:
        answers: logits (N, K).
        targets: (N,).
    """
    found = dict.fromkeys(omitted, 0.0)
    shifted = answers.copy()
    for index in [*omitted] * (ROUNDS if len(omitted) > 1 else 1):
        others = shifted.copy()
        scores = []
        for shift in SHIFTS:
            others[:, index] = answers[:, index] + shift
            scores.append(float(np.mean(task.score({"outputs": others}, targets))))
        best = max(range(len(SHIFTS)), key=lambda i: (round(scores[i], 9), -abs(SHIFTS[i])))
        found[index] = float(SHIFTS[best])
        shifted[:, index] = answers[:, index] + SHIFTS[best]
    return found


def _last(model: nn.Module, data: Data) -> nn.Linear:
    """Return the linear layer that a network ends in."""
    modules = dict(model.named_modules())
    ran = layers(model, torch.from_numpy(data.validation.inputs[:2]))
    last = next((modules[layer.name] for layer in reversed(ran) if layer.kind != "Sequential"), model)
    if not isinstance(last, nn.Linear) or last.bias is None or last.out_features != len(data.classes):
        raise StageError(
            "data.omit: the bias of a class that the student never saw is set after training, in its last layer; that "
            f"must be a torch.nn.Linear with a bias and {len(data.classes)} outputs"
        )
    return last
