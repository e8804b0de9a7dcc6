"""Check each ONNX file by itself, and compare it, run by ONNX Runtime, with the network it was made from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """Tolerances; a variant outside them fails the run."""

    samples: PositiveInt = 256
    """Inputs, taken from the validation split."""
    min_sqnr_db: Annotated[float, Field(gt=0)] | None = None
    """Smallest signal-to-quantization-noise ratio, torch against ONNX. Default: by precision (docs/method.md)."""
    min_top1_agreement: Annotated[float, Field(ge=0, le=1)] | None = None


STAGE = Stage(
    work="edgekd.validation.export:validate",
    after=("export",),
    consumes=("model", "onnx"),
    per="variant",
    packages=("torch", "onnx", "onnxruntime"),
    version=2,
)
