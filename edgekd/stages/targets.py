"""Keep a frozen teacher's answers to every view of every training sample, so that it need not answer again."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """Whether the teacher's answers are kept, and how; `targets: false` asks the teacher in every step."""

    keep: Literal["auto", "always"] = "auto"
    """"auto": where it pays, that is where a view of a sample is met in more than one epoch (without augmentation, or
    with `augment.views` below the epochs), and the teacher's answers are all that the losses need."""
    top: PositiveInt | None = None
    """Keep only so many of the largest logits, and the log-sum-exp of the rest. Refused where these hold less than
    95 % of the probability at the temperature that is used."""


STAGE = Stage(
    work="edgekd.distill.targets:keep",
    after=("choose",),
    consumes=("teacher",),
    per=None,
    seeded=False,
    packages=("torch", "accelerate"),
)
