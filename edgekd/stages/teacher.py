"""Train a teacher, or take it as it is."""

from __future__ import annotations

from edgekd.options import Teacher
from edgekd.stage import Stage


class Options(Teacher):
    """A teacher: any network of `edgekd/models`, "package.module:function", or an ONNX file."""


STAGE = Stage(
    work="edgekd.training.teacher:train",
    makes="teacher",
    version=2,
    per="teacher",
    packages=("torch", "accelerate"),
    trains=True,
)
