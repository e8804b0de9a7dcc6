"""Train the student without a teacher, at the same budget, to see what the teacher is worth (`baseline: true`)."""

from __future__ import annotations

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """Nothing to say: the options are the student's."""


STAGE = Stage(
    work="edgekd.training.teacher:train_baseline",
    after=("choose",),
    reads=("student",),
    makes="baseline",
    packages=("torch", "accelerate"),
    trains=True,
    default=False,
)
