"""Scores and agreement, by hand and against scikit-learn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from edgekd import tasks
from edgekd.errors import StageError, UsageError

TASK = tasks.load("classification")
NAN, INF = float("nan"), float("inf")


def outputs(rows) -> dict[str, np.ndarray]:
    return {"logits": np.asarray(rows, dtype=np.float32)}


def test_the_largest_logit_decides():
    rows = [[1, 3, 2], [5, 0, 4], [-1, -2, -0.5], [0, 0, 0.1]]
    found = TASK.score(outputs(rows), np.array([1, 2, 2, 2]))
    assert found.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert found.dtype == np.float64


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 7))
def test_the_mean_score_is_the_accuracy(seed, samples, classes):
    generator = np.random.default_rng(seed)
    logits, targets = generator.normal(size=(samples, classes)), generator.integers(0, classes, samples)
    score = TASK.score(outputs(logits), targets)
    assert score.mean() == pytest.approx(accuracy_score(targets, logits.astype(np.float32).argmax(1)))
    assert TASK.agreement(outputs(logits), outputs(logits)).tolist() == [1.0] * samples


@pytest.mark.parametrize("row", [[NAN, 1, 0], [1, NAN, 0], [NAN, NAN, NAN], [INF, 0, 1], [0, -INF, 1]])
def test_logits_that_are_no_numbers_are_wrong_and_agree_with_nothing(row):
    for target in range(3):
        assert TASK.score(outputs([row]), np.array([target])).tolist() == [0.0]
    assert TASK.agreement(outputs([row]), outputs([row])).tolist() == [0.0]
    assert TASK.agreement(outputs([[3, 2, 1]]), outputs([row])).tolist() == [0.0]


def test_of_equal_logits_the_first_class_is_taken_whoever_is_asked():
    """As ONNX Runtime's ArgMax and torch's do: a tie must not look like a difference between runtimes."""
    rows = [[1, 1, 0], [0, 2, 2], [3, 3, 3]]
    assert TASK.score(outputs(rows), np.array([0, 1, 0])).tolist() == [1.0, 1.0, 1.0]
    assert torch.tensor(rows).argmax(1).tolist() == [0, 1, 0]


def test_agreement_is_about_decisions_not_labels():
    one, other = outputs([[1, 0], [0, 1], [1, 0]]), outputs([[9, 8], [9, 8], [0.2, 0.1]])
    assert TASK.agreement(one, other).tolist() == [1.0, 0.0, 1.0]
    np.testing.assert_array_equal(TASK.agreement(one, other), TASK.agreement(other, one))


def test_the_loss_is_the_mean_cross_entropy_in_float32():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = TASK.loss(logits, torch.tensor([0, 2]))
    by_hand = (np.log(1 + np.exp(-2.0) + np.exp(-3.0)) + np.log(3.0)) / 2
    assert float(loss.detach()) == pytest.approx(by_hand, rel=1e-6)
    assert loss.dtype == torch.float32
    loss.backward()
    assert logits.grad is not None


def test_there_is_no_such_task():
    assert tasks.shipped_tasks() == ["classification"]
    with pytest.raises(UsageError, match="no task 'clasification'"):
        tasks.load("clasification")


REGRESSION = '''
import numpy as np
from edgekd.tasks import Task


def close(outputs, targets):
    """1 where the prediction is within a half of the target."""
    return np.asarray(np.abs(outputs["y"][:, 0] - targets[:, 0]) < 0.5, dtype=np.float64)


def task():
    def loss(outputs, targets, *, label_smoothing=0.0):
        return ((outputs.float() - targets) ** 2).mean()

    return Task("regression", "within 0.5", close, lambda a, b: close(a, b["y"]), loss)


def wrong():
    return "classification"
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A user's module `mine_of_tasks` in the working directory."""
    (tmp_path / "mine_of_tasks.py").write_text(REGRESSION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    tasks.load.cache_clear()
    yield tmp_path
    tasks.load.cache_clear()
    sys.modules.pop("mine_of_tasks", None)


def test_a_users_own_task(mine):
    task = tasks.load("mine_of_tasks:task")
    one, other = {"y": np.array([[1.0], [2.0]])}, {"y": np.array([[1.4], [9.0]])}
    assert (task.name, task.metric) == ("regression", "within 0.5")
    assert task.score(one, np.array([[1.2], [3.0]])).tolist() == [1.0, 0.0]
    assert task.agreement(one, other).tolist() == [1.0, 0.0]
    assert float(task.loss(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]]))) == 2.0
    assert tasks.load("mine_of_tasks:task") is task


def test_a_users_task_that_is_none(mine):
    with pytest.raises(StageError, match=r"task mine_of_tasks:wrong returned str; it must return an edgekd.tasks.Task"):
        tasks.load("mine_of_tasks:wrong")
    with pytest.raises(UsageError, match="absent"):
        tasks.load("mine_of_tasks:absent")


def test_scoring_needs_no_torch():
    script = (
        "import sys, numpy as np; from edgekd import tasks\n"
        "task = tasks.load('classification')\n"
        "task.score({'logits': np.eye(3)}, np.arange(3)); task.agreement({'a': np.eye(2)}, {'a': np.eye(2)})\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
