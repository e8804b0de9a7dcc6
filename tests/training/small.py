"""Small data and networks to train in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from edgekd import tasks
from edgekd.data import Data, Split
from edgekd.options import Training
from edgekd.training.engine import accelerate
from edgekd.training.loop import fit
from edgekd.training.objective import Batch, Objective, label_loss

TASK = tasks.load("classification")


def images(train: int = 70, validation: int = 30, size: int = 8, classes: int = 3, seed: int = 0) -> Data:
    """Return noisy images of bright rows, one row for each class."""
    generator = np.random.default_rng(seed)

    def split(count: int) -> Split:
        targets = generator.integers(0, classes, count)
        inputs = generator.normal(size=(count, 1, size, size)).astype(np.float32)
        inputs[np.arange(count), 0, 2 * targets] += 1.5
        return Split(inputs, targets.astype(np.int64))

    return Data("rows", split(train), split(validation), split(validation), tuple("abcdefgh"[:classes]))


def convnet(classes: int = 3, width: int = 6, dropout: float = 0.3) -> nn.Module:
    """Return a network with normalisation, dropout and layers of several shapes."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


class Given(Objective):
    """An objective that a function computes: (outputs, batch) -> terms by name."""

    def __init__(self, function: Callable[[Tensor, Batch], dict[str, Tensor]]) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return self.function(outputs, batch)


def labels(outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Return the loss on the labels."""
    return {"labels": label_loss(TASK, outputs, batch)}


def train(model: nn.Module, data: Data, out: Path, options: Training, *, objective=labels, task=TASK, **more):
    """Train on the CPU by an objective or a function; `more` overrides what `fit` is given."""
    out.mkdir(exist_ok=True)
    given = {
        "accelerator": accelerate("cpu", options.precision),
        "seed": 0,
        "view_seed": 0,
        "out": out,
        "progress": lambda done, total, text: None,
    }
    goal = objective if isinstance(objective, Objective) else Given(objective)
    return fit(model, goal, data, task, options, **(given | more))
