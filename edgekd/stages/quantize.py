"""Quantize the newest student to 8-bit integers, once for every scheme that the chosen devices ask for."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """Post-training quantization; the scheme (signedness, symmetry, granularity) comes from the device profile."""

    mode: Literal["ptq"] = "ptq"
    samples: PositiveInt = 512
    """Calibration samples, taken from the training split."""


STAGE = Stage(
    work="edgekd.compress.quantize:quantize",
    after=("distill", "prune", "factorize"),
    consumes=("model",),
    makes="int8",
    per="scheme",
    version=2,
    packages=("torch", "torchao"),
)
