"""Train the student to answer as the teacher does (Hinton, Vinyals, Dean 2015, arXiv:1503.02531)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """Response distillation: (1 - alpha) * task loss + alpha * T^2 * KL(teacher || student) at temperature T."""

    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Weight of the teacher; 0 learns from the labels alone."""


STAGE = Stage(
    work="edgekd.distill.distill:distill",
    after=("teacher",),
    consumes=("teacher",),
    reads=("student",),
    makes="student",
    packages=("torch", "accelerate"),
    trains=True,
)
