"""Train the teacher, or load it."""

from __future__ import annotations

from edgekd.options import Network
from edgekd.stage import Stage


class Options(Network):
    """The teacher: any network of `edgekd/models`, or "package.module:function"."""


STAGE = Stage(
    work="edgekd.training.teacher:train",
    makes="teacher",
    packages=("torch", "accelerate"),
    trains=True,
)
