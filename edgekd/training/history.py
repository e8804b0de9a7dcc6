"""What happened in a training so far, and where it is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from edgekd.training.ledger import Epoch, summary


@dataclass
class Curves:
    """What happened in each epoch, numbered from 1."""

    epoch: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)

    def of(self, index: int) -> dict[str, float]:
        """Return what happened in one epoch, by its place in the lists."""
        return {name: values[index] for name, values in asdict(self).items() if name != "epoch"}


@dataclass
class State:
    """Where a training is: with the weights and the optimizer's memory, all that it needs to go on.

    Args:
        best: the network's state in the best epoch so far.
        epoch: whole epochs done.
        step: steps done of the epoch after those.
        terms: of each epoch.
    """

    best: dict[str, Tensor]
    epoch: int = 0
    step: int = 0
    curves: Curves = field(default_factory=Curves)
    terms: list[Epoch] = field(default_factory=list)


def exhausted(state: State, patience: int | None) -> bool:
    """Return whether the validation score has not risen in the last `patience` epochs; a tie is no rise."""
    validation = state.curves.validation
    if patience is None or not validation:
        return False
    return len(validation) - 1 - validation.index(max(validation)) >= patience


def facts(state: State) -> dict[str, Any]:
    """Return the curves, the best epoch and its score, and where there are several terms of the loss, each of them."""
    validation = state.curves.validation
    best = len(validation) - validation[::-1].index(max(validation))  # the last one of equals, which trained longest
    terms = {
        name: {kind: _rounded(values) for kind, values in kinds.items()} for name, kinds in summary(state.terms).items()
    }
    return {
        "curves": {name: _rounded(values) for name, values in asdict(state.curves).items()},
        "best_epoch": best,
        "validation": max(validation),
        **({"terms": terms} if len(terms) > 1 else {}),
    }


def _rounded(values: list[float | None]) -> list[float | None]:
    """Return six digits of each number; a norm that overflowed is no number, and is None."""
    return [
        value if value is None or isinstance(value, int) else (float(f"{value:.6g}") if math.isfinite(value) else None)
        for value in values
    ]
