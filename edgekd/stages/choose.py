"""Choose the teacher that this student learns best from (`teacher: auto`), by short trials.

A larger teacher is often a worse one (Cho and Hariharan 2019, arXiv:1910.01348). Successive halving (Jamieson and
Talwalkar 2016, arXiv:1502.07943): the student learns from every candidate for a part of its epochs; the better ones on
the validation split go on to trials `eta` times as long, until one is left.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """Short trials of each candidate; used with `teacher: auto` alone."""

    eta: Annotated[int, Field(ge=2)] = 2
    """One of so many candidates stays after each round."""
    first_epochs: PositiveInt = 1
    """Epochs of the first round's trials; each later round has `eta` times as many, at most the student's own."""


STAGE = Stage(
    work="edgekd.distill.choosing:choose",
    after=("teacher",),
    consumes=("teachers",),
    reads=("student", "distill"),
    makes="teacher",
    packages=("torch", "accelerate"),
    trains=True,
)
