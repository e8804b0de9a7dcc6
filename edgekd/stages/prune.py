"""Remove whole channels, then fine-tune with the teacher (DepGraph: Fang et al. 2023, arXiv:2301.12900)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """Structured pruning by group magnitude."""

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Part of the channels to remove, as nearly as `round_to` allows."""
    round_to: PositiveInt = 8
    """Channels that remain are a multiple of this: vector units have that width. Of a layer stays the multiple (or its
    whole width) nearest to what the ratio asks for, of two equally near ones the larger: at a ratio of 0.25 a layer of
    16 keeps 16, one of 32 keeps 24. A ratio that leaves every layer as it is, is an error."""
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
    consumes=("model", "teacher", "targets"),
    reads=("teacher", "student", "distill"),
    makes="pruned",
    version=3,
    packages=("torch", "accelerate", "torch-pruning"),
    trains=True,
)
