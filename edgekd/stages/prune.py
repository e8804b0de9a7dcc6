"""Remove whole channels, then fine-tune with the teacher (DepGraph: Fang et al. 2023, arXiv:2301.12900)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """Structured pruning by group magnitude."""

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Part of the channels to remove."""
    round_to: PositiveInt = 8
    """Channels that remain are a multiple of this: vector units have that width."""
    scope: str = Field("uniform", pattern="^(uniform|global)$")
    """"uniform": the ratio holds in every layer. "global": layers compete, unimportant ones lose more."""
    exclude: tuple[str, ...] = ()
    """Names of layers that keep their channels. The last layer always does."""
    epochs: PositiveInt = 5
    """Fine-tuning; the other training options are the student's (or the teacher's, where there is no student)."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Default: a third of the student's."""


STAGE = Stage(
    work="edgekd.compress.pruning:prune",
    after=("distill",),
    consumes=("model", "teacher"),
    reads=("teacher", "student", "distill"),
    makes="pruned",
    packages=("torch", "accelerate", "torch-pruning"),
    trains=True,
)
