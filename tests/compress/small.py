"""Networks whose whole structure a test shows, and what a stage's work is given to prune one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd import models
from edgekd.artifact import Artifact
from edgekd.models import Description
from edgekd.options import Data, Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation

SHAPE = (3, 8, 8)
DIGIT = (1, 8, 8)


class Parts(nn.Module):
    """A network given by its layers and a function."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.steps = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, x)


def conv(inputs: int, outputs: int, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **more)


def head(inputs: int) -> nn.Linear:
    return nn.Linear(inputs, 5)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def digit_net(name: str, **args: Any) -> Description:
    return Description(f"edgekd.models.{name}:build", {"input_shape": list(DIGIT), "classes": 10, **args}, DIGIT)


def kept(folder: Path, description: Description, seed: int = 0) -> Artifact:
    """Return an untrained network as an artifact in a folder, which is made."""
    torch.manual_seed(seed)
    folder.mkdir()
    models.save(folder, description, models.create(description).state_dict())
    return Artifact(folder, folder.name, "", "", {})


def given(
    student: Artifact, teacher: Artifact, *, samples: int = 192, teaching: Distillation | None = None, **training: Any
) -> Inputs:
    """Return what the stage's work is given: digits, and networks whose training options count."""
    network = Network(model="mlp", **{"batch_size": 32, **training})
    return Inputs(
        artifacts={"model": student, "teacher": teacher},
        blocks={"teacher": network, "student": network, "distill": teaching},
        data_dir=None, task="classification", seed=0, data_seed=0, compute="cpu", variant="pruned",
        data=Data(source="digits", train_samples=samples, validation=64, test_samples=8),
    )  # fmt: skip
