"""One class out of K per sample: logits (N, K), targets (N,) integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekd.tasks import Task

Arrays = Mapping[str, np.ndarray]


def _predicted(outputs: Arrays) -> np.ndarray:
    """Return the class with the largest logit, (N,); -1, which no label equals, where the logits are not numbers."""
    logits = next(iter(outputs.values()))
    predicted: np.ndarray = np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)
    return predicted


def score(outputs: Arrays, targets: np.ndarray) -> np.ndarray:
    """Return 1 where the predicted class is the target, else 0."""
    return np.asarray(_predicted(outputs) == targets, dtype=np.float64)


def agreement(outputs: Arrays, teacher: Arrays) -> np.ndarray:
    """Return 1 where both predict the same class, else 0."""
    own, other = _predicted(outputs), _predicted(teacher)
    return np.asarray((own == other) & (own >= 0), dtype=np.float64)


def loss(logits: Any, targets: Any, *, label_smoothing: float = 0.0) -> Any:
    """Return the mean cross-entropy of torch logits (B, K) and targets (B,)."""
    from torch.nn.functional import cross_entropy  # noqa: PLC0415 - reports score where no torch is installed

    return cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


TASK = Task(name="classification", metric="accuracy", score=score, agreement=agreement, loss=loss)
