"""What a training minimises: named terms, each a number per batch, whose sum the loop takes the gradient of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgekd.tasks import Task


@dataclass(frozen=True)
class Mixing:
    """How a batch was mixed (mixup, CutMix): each sample with another one of the batch.

    Args:
        partner: positions in the batch (B,).
        share: of the sample itself; 1 - share is the partner's.
    """

    partner: Tensor
    share: float


@dataclass  # made in each step: a frozen one takes several times as long
class Batch:
    """What the network was shown.

    Args:
        inputs: (B, ...), the view that the outputs were computed from.
        targets: (B, ...), of the samples themselves.
        samples: (B,) int64 on the CPU, indices in the training split.
        view: which of the views of a sample this is.
        progress: part of the training that is done, in [0, 1).
    """

    inputs: Tensor
    targets: Tensor
    samples: Tensor
    view: int = 0
    progress: float = 0.0
    mixing: Mixing | None = None


class Objective(nn.Module):
    """Weighted terms of the loss. What it holds as a module is trained with the network and is no part of it."""

    def forward(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return each term's weighted mean over the batch, by its name."""
        raise TypeError(f"{type(self).__name__} has no forward")


class Labels(Objective):
    """The task's own loss."""

    def __init__(self, task: Task, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self._task, self._smoothing = task, label_smoothing

    def forward(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return {"labels": the mean loss}."""
        return {"labels": label_loss(self._task, outputs, batch, label_smoothing=self._smoothing)}


def label_loss(task: Task, outputs: Tensor, batch: Batch, **options: Any) -> Tensor:
    """Return the task's mean loss; of a mixed batch the mix of the losses (mixup, arXiv:1710.09412, section 2)."""
    own: Tensor = task.loss(outputs, batch.targets, **options)
    if batch.mixing is None:
        return own
    other: Tensor = task.loss(outputs, batch.targets[batch.mixing.partner], **options)
    return batch.mixing.share * own + (1 - batch.mixing.share) * other
