"""Measure every variant on every device, side by side with the teacher. Never cached."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from edgekd.document import Frozen
from edgekd.stage import Stage

Seconds = Annotated[float, Field(gt=0, le=3600)]


class Options(Frozen):
    """How long and how often a device is measured (docs/method.md)."""

    quick: bool = False
    """A short measurement, for trying things out: the report says so."""
    processes: PositiveInt = 5
    """Fresh processes; each has every variant loaded."""
    seconds: Seconds | None = None
    """Measured time per variant, over all processes. Default 10, quick 1."""
    inferences: PositiveInt | None = None
    """Measured inferences per variant, at least. Default 1000, quick 300."""
    batch_size: PositiveInt = 1
    timeout_minutes: Annotated[float, Field(gt=0)] = 60
    """A measurement that takes longer is ended, and the device counts as failed."""


STAGE = Stage(
    work="edgekd.dispatch.local:measure",
    after=("export", "validate"),
    consumes=("onnx",),
    per="device",
    packages=(),
)
