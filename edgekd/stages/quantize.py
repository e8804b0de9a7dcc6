"""Quantize the newest student to 8-bit integers, once for every scheme that the chosen devices ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """Quantization; the scheme (signedness, symmetry, granularity) comes from the device profile."""

    mode: Literal["ptq", "qat"] = "ptq"
    """"ptq": the trained network is calibrated. "qat": after that it is trained on, with the rounding of the integers
    in its forward pass and with its teachers."""
    samples: PositiveInt = 512
    """Calibration samples, taken from the training split."""
    calibration: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"
    """The range of an activation: all that was seen, all but the outermost values, that with the least squared error,
    or that whose integers are distributed most as the values are. Weights always keep their whole range."""
    percentile: Annotated[float, Field(gt=50, le=100)] | None = None
    """Of the values that `calibration: percentile` keeps, at either end. Default: 99.99."""

    weights_bits: Literal[8, 4, 2] = 8
    """Of each weight in the file. 4 makes it smaller, not faster, and needs a runtime that reads ONNX opset 21; 2 needs
    `buckets`."""
    buckets: Annotated[int, Field(ge=2)] | None = None
    """Of `mode: qat`: quantize weights alone, so many consecutive ones with a range of their own (quantized
    distillation, Polino et al. 2018, arXiv:1802.05668; theirs is 256). The file holds floats: no runtime has such
    weights."""
    epochs: PositiveInt | None = None
    """Of `mode: qat`; the other training options are the student's (or the teacher's, where there is no student).
    Default: 5."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Of `mode: qat`. Default: a tenth of the student's."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Options:
        if self.percentile is not None and self.calibration != "percentile":
            raise ValueError("percentile goes with calibration: percentile")
        if self.weights_bits == 2 and self.buckets is None:
            raise ValueError("weights_bits: 2 goes with buckets: no runtime has weights of 2 bits; choose 4 or 8")
        for name in ("epochs", "learning_rate", "buckets"):
            if getattr(self, name) is not None and self.mode != "qat":
                raise ValueError(f"{name} goes with mode: qat; nothing is trained without it")
        return self


STAGE = Stage(
    work="edgekd.compress.quantize:quantize",
    after=("distill", "prune", "factorize"),
    consumes=("model",),
    makes="int8",
    per="scheme",
    version=2,
    packages=("torch", "torchao"),
)
TRAINED = replace(
    STAGE,
    consumes=("model", "teacher", "targets"),
    reads=("teacher", "student", "distill"),
    packages=("torch", "torchao", "accelerate"),
    trains=True,
)
"""The same with `mode: qat`."""
