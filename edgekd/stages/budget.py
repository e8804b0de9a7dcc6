"""Find the networks that a budget allows, and make the best of them (docs/compression.md).

The stage itself says how much of the student counts: how important each channel is, and which blocks it can do without.
The search works with that (`edgekd.search`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from edgekd.document import Frozen
from edgekd.options import Gates, NonNegativeInt
from edgekd.stage import Stage

ONE = "found"
"""The point of a budget that has one and does not name it."""
COSTS = (
    "min_speedup", "max_p50_ms", "max_p99_ms", "max_size_mb", "min_compression", "max_peak_memory_mb", "max_energy_mj",
)  # fmt: skip
"""Limits that a smaller network keeps better."""
TAKEN = (
    "teacher", "student", "baseline", "assistant", "pruned", "factorized", "int8", "fp16", "qat", "mixed", "dynamic",
)  # fmt: skip
"""Words of the names of other variants."""

PointName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*$")]


class Options(Frozen):
    """What the device must do, and how long to look for the network that does it.

    The short form has the limits of one point beside the other keys; the long one names several in `points`.
    """

    device: tuple[str, ...] | None = None
    """The devices on which the limits hold. Default: all of the run."""
    points: Mapping[PointName, Gates]
    """The limits of each network that is wanted, by its name."""
    networks: Annotated[int, Field(ge=20)] = 100
    """Random networks of each precision that are measured on each device, for the model of its latency."""
    finalists: PositiveInt = 3
    """Networks of each point that are measured and trained for a short time, to choose one."""
    trial_epochs: PositiveInt | None = None
    """Of a finalist's short training. Default: half of `epochs`."""
    epochs: PositiveInt = 10
    """Of the training of the network that was chosen; the other training options are the student's."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Of both. Default: the student's."""
    minutes: Annotated[float, Field(gt=0)] = 60
    """How long a point may be tried again where what was measured is not what was wanted."""
    depth: NonNegativeInt = 2
    """Residual blocks that may go, at most."""
    round_to: PositiveInt = 8
    """Channels are multiples of this, or all that a layer has."""
    exclude: tuple[str, ...] = ()
    """Names of layers whose channels and blocks stay, with all that is in them."""
    batches: PositiveInt = 8
    """Training batches on which is computed what counts."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        limits = {key: value for key, value in values.items() if key in Gates.model_fields}
        found = {key: value for key, value in values.items() if key not in limits}
        if isinstance(found.get("device"), str):
            found["device"] = (found["device"],)
        if limits and found.get("points") is not None:
            raise ValueError(f"{next(iter(limits))} stands beside points: put it into each of them")
        return found if found.get("points") is not None else {**found, "points": {ONE: limits}}

    @model_validator(mode="after")
    def _can_be_looked_for(self) -> Options:
        if not self.points:
            raise ValueError("points has no point: name one with its limits, such as {small: {min_speedup: 10}}")
        for name, limits in self.points.items():
            if any(word in name for word in TAKEN):
                raise ValueError(f"points.{name}: other variants have such names ({', '.join(TAKEN)}); choose another")
            if not any(getattr(limits, cost) is not None for cost in COSTS):
                raise ValueError(
                    f"{name}: no limit says what the device must do; set at least one of {', '.join(COSTS)}"
                )
        return self

    @property
    def short(self) -> int:
        """Epochs of a finalist's short training."""
        return self.trial_epochs or math.ceil(self.epochs / 2)

    def devices(self, run: tuple[str, ...]) -> tuple[str, ...]:
        """Return the devices on which the limits hold, of those of a run."""
        return run if self.device is None else self.device


class Ordering(Frozen):
    """What the stage's own result depends on."""

    batches: PositiveInt
    depth: NonNegativeInt
    exclude: tuple[str, ...]


STAGE = Stage(
    work="edgekd.compress.ordering:order",
    after=("distill",),
    consumes=("model", "teacher", "targets"),
    reads=("teacher", "student", "distill"),
    per=None,
    packages=("torch", "accelerate", "torch-pruning"),
    trains=True,
    default=False,
)
