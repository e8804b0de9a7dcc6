"""The terms of the loss as a training goes on: their values, their shares, and whether they still are numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgekd.errors import StageError
from edgekd.options import Training
from edgekd.training import ranks

KINDS = ("loss", "share", "gradient_norm")
Epoch = dict[str, dict[str, float | None]]
"""By term, one number of each kind; None where it was not measured."""


@dataclass
class Sums:
    """Of an epoch's steps so far, by term; plain numbers, so that a checkpoint holds them.

    Args:
        loss: the sum of the weighted term.
        share: the sum of its part of the absolute values of all terms.
        gradient_norm: of its gradient at the epoch's first step.
    """

    loss: dict[str, float] = field(default_factory=dict)
    share: dict[str, float] = field(default_factory=dict)
    gradient_norm: dict[str, float] = field(default_factory=dict)


class Ledger:
    """Collects the terms of an epoch's steps.

    To look at a number makes a GPU wait for the CPU, and processes wait for each other. There the values are kept
    until somebody asks; on one CPU each step's are looked at before the weights are changed.

    `sums` is what it has counted of an epoch; a training that goes on sets it.
    """

    def __init__(self, options: Training, device: torch.device) -> None:
        self._options = options
        self.sums = Sums()
        self.immediate = device.type == "cpu" and ranks.world()[1] == 1
        self._names: tuple[str, ...] = ()
        self._waiting: list[tuple[int, int, Tensor]] = []

    def add(self, epoch: int, step: int, parts: list[tuple[float, dict[str, Tensor]]]) -> None:
        """Take in a step's terms: of each part of its batch its weight (they sum to one) and its terms.

        Raises:
            StageError: one is no number.
        """
        names = tuple(parts[0][1])
        if self.immediate:
            values = [sum(weight * terms[name].item() for weight, terms in parts) for name in names]
            self._count(names, epoch, step, values)
            return
        if names != self._names:
            self.settle()
            self._names = names
        weighed = [torch.stack([terms[name].detach() for name in names]) * weight for weight, terms in parts]
        self._waiting.append((epoch, step, torch.stack(weighed).sum(0) if len(weighed) > 1 else weighed[0]))

    def settle(self) -> None:
        """Count what waits; of several processes each has to ask, and each counts the mean over all.

        Raises:
            StageError: a term is no number.
        """
        if not self._waiting:
            return
        values = ranks.mean(torch.stack([found for _, _, found in self._waiting])).tolist()
        waiting, self._waiting = self._waiting, []
        for (epoch, step, _), row in zip(waiting, values, strict=True):
            self._count(self._names, epoch, step, row)

    def close(self, steps: int) -> Epoch:
        """Return the means over an epoch of so many steps, and begin the next."""
        sums, self.sums = self.sums, Sums()
        return {
            name: {
                "loss": sums.loss[name] / steps,
                "share": sums.share[name] / steps,
                "gradient_norm": sums.gradient_norm.get(name),
            }
            for name in sums.loss
        }

    def _count(self, names: tuple[str, ...], epoch: int, step: int, values: list[float]) -> None:
        """Add a step's values.

        Raises:
            StageError: one is no number, with what to do about it.
        """
        loss, share = self.sums.loss, self.sums.share
        whole = sum(map(abs, values))
        if not math.isfinite(whole):
            raise StageError(self._told(names, epoch, step, values))
        for name, value in zip(names, values, strict=True):
            loss[name] = loss.get(name, 0.0) + value
            share[name] = share.get(name, 0.0) + (abs(value) / whole if whole else 0.0)

    def _told(self, names: tuple[str, ...], epoch: int, step: int, values: list[float]) -> str:
        bad = [
            f"the term {name} became {value}"
            for name, value in zip(names, values, strict=True)
            if not math.isfinite(value)
        ]
        clip = "set gradient_clip" if self._options.gradient_clip is None else "lower gradient_clip"
        return (
            f"{', '.join(bad) or 'the loss became inf'} in epoch {epoch + 1}, step {step + 1}; "
            f"lower learning_rate ({self._options.learning_rate:g}), or {clip}, and look for extreme values in the data"
        )


def summary(epochs: Sequence[Epoch]) -> dict[str, dict[str, list[float | None]]]:
    """Return {term: {"loss", "share", "gradient_norm": one number per epoch}}; a term that was not there counts 0."""
    names = dict.fromkeys(name for epoch in epochs for name in epoch)
    absent: dict[str, float | None] = dict.fromkeys(KINDS, 0.0)
    return {name: {kind: [epoch.get(name, absent)[kind] for epoch in epochs] for kind in KINDS} for name in names}
