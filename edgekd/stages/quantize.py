"""Quantize the newest student to 8-bit integers, once for every scheme that the chosen devices ask for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """Post-training quantization; the scheme (signedness, symmetry, granularity) comes from the device profile."""

    mode: Literal["ptq"] = "ptq"
    samples: PositiveInt = 512
    """Calibration samples, taken from the training split."""
    calibration: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"
    """The range of an activation: all that was seen, all but the outermost values, that with the least squared error,
    or that whose integers are distributed most as the values are. Weights always keep their whole range."""
    percentile: Annotated[float, Field(gt=50, le=100)] | None = None
    """Of the values that `calibration: percentile` keeps, at either end. Default: 99.99."""

    @model_validator(mode="after")
    def _percentile_alone(self) -> Options:
        if self.percentile is not None and self.calibration != "percentile":
            raise ValueError("percentile goes with calibration: percentile")
        return self


STAGE = Stage(
    work="edgekd.compress.quantize:quantize",
    after=("distill", "prune"),
    consumes=("model",),
    makes="int8",
    per="scheme",
    version=2,
    packages=("torch", "torchao"),
)
