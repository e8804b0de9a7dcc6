"""Option models that several stages share. Torch-free: a recipe is read, checked and planned without a framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from edgekd.document import Frozen
from edgekd.plugin import nameof

NonNegativeInt = Annotated[int, Field(ge=0)]
Name = Annotated[str, BeforeValidator(lambda value: nameof(value) if callable(value) else value)]
"""A name from YAML, or in the Python API the function itself, which is then known by its "package.module:function"."""


def _shorthand(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) or callable(value) else value


class Data(Frozen):
    """Which data, and how they are split. A bare string in YAML is the source."""

    source: Name
    """A shipped data set, an `.npz` file, an image folder, or "package.module:function"."""
    validation: Annotated[float, Field(gt=0, lt=1)] | PositiveInt = 0.1
    """Part (or number) of the training split held out for every choice; unused when the source brings its own."""
    train_samples: PositiveInt | None = None
    """Use only so many training samples (a short form of a recipe)."""
    test_samples: PositiveInt | None = None


DataOptions = Annotated[Data, BeforeValidator(_shorthand)]


class Augment(Frozen):
    """Random views of the training inputs, made on tensors; teacher and student see the same view."""

    crop: NonNegativeInt = 0
    """Pad by so many pixels, then cut the original size at a random place."""
    flip: bool = False
    """Mirror left-right with probability one half."""


class Training(Frozen):
    """How a network is trained."""

    epochs: PositiveInt | None = None
    """Passes over the training split. Default: 10, or 0 (use as it is) where `weights` are given."""
    batch_size: PositiveInt = 128
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Part of the steps over which the learning rate rises linearly from zero."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient of all parameters together."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """"auto" is bf16 autocast where the processor computes in bf16, fp32 elsewhere; the result says which it was."""
    patience: PositiveInt | None = None
    """Stop when the validation metric has not risen for so many epochs. The best epoch's weights are kept anyway."""
    augment: Augment = Augment()


class Network(Training):
    """Which network, how it is built, and how it is trained."""

    model: Name
    """A shipped network (mlp, convnet, resnet) with its own keys below, or "package.module:function" with `args`."""
    args: Mapping[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""
    width: PositiveInt | None = None
    """Channels of the first layer (convnet, resnet)."""
    widths: tuple[PositiveInt, ...] | None = None
    """Hidden layers (mlp)."""
    blocks: tuple[PositiveInt, ...] | None = None
    """Blocks of each stage (convnet, resnet)."""
    weights: Path | None = None
    """A safetensors file, or a `.pt` state dict, to start from."""

    @model_validator(mode="before")
    @classmethod
    def _default_epochs(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("epochs") is None:
            return {**values, "epochs": None if values.get("weights") else 10}
        return values

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for the network's factory, from `args` and the shipped networks' own keys."""
        own = {"width": self.width, "widths": self.widths, "blocks": self.blocks}
        return {**self.args, **{key: value for key, value in own.items() if value is not None}}
