"""The bias of classes that a student never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import tasks
from edgekd.data import Data, Split
from edgekd.distill.correcting import best_shifts, correct
from edgekd.errors import StageError

TASK = tasks.load("classification")


def data(inputs: np.ndarray, targets: np.ndarray, classes: int = 3) -> Data:
    split = Split(inputs.astype(np.float32), targets.astype(np.int64))
    return Data("made", split, split, split, tuple("abc"[:classes]))


def answers(lowered: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right by a margin of 2 to 4 once class 2 is raised by `lowered`."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 3, 300)
    logits = np.eye(3)[targets] * generator.uniform(2, 4, (300, 1))
    logits[:, 2] -= lowered
    return logits, targets


def test_the_least_shift_that_scores_best_is_taken():
    logits, targets = answers(7.0)
    (shift,) = best_shifts(logits, targets, [2], TASK).values()
    raised = logits.copy()
    raised[:, 2] += shift
    assert (raised.argmax(1) == targets).all()
    raised[:, 2] -= 0.1
    assert not (raised.argmax(1) == targets).all()


def test_answers_that_are_right_stay():
    logits, targets = answers(0.0)
    assert best_shifts(logits, targets, [2], TASK) == {2: pytest.approx(0.0, abs=1e-9)}


def test_the_network_itself_is_corrected_and_nothing_else_of_it():
    logits, targets = answers(5.0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(3))
        model[1].bias.zero_()
    told = correct(model, data(logits, targets), [2], TASK)
    assert list(told) == ["c"]
    assert model[1].bias.tolist() == pytest.approx([0, 0, told["c"]])
    assert torch.equal(model[1].weight, torch.eye(3))
    with torch.no_grad():
        assert (model(torch.from_numpy(logits).float()).argmax(1).numpy() == targets).all()


@pytest.mark.parametrize("last", [nn.Linear(3, 3, bias=False), nn.Linear(3, 4), nn.Identity()])
def test_a_network_without_such_a_bias_is_refused(last):
    logits, targets = answers(5.0)
    with pytest.raises(StageError, match=r"a torch\.nn.Linear with a bias and 3 outputs"):
        correct(nn.Sequential(nn.Linear(3, 3), last), data(logits, targets), [2], TASK)
