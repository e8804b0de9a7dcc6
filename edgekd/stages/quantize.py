"""Quantize the newest student to 8-bit integers, once for every scheme that the chosen devices ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from edgekd.document import Frozen
from edgekd.stage import Stage

Mode = Literal["ptq", "qat", "mixed", "dynamic"]

_CALIBRATED: tuple[Mode, ...] = ("ptq", "qat", "mixed")
OWN: Mapping[str, tuple[Mode, ...]] = {
    "samples": _CALIBRATED,
    "calibration": _CALIBRATED,
    "percentile": _CALIBRATED,
    "weights_bits": _CALIBRATED,
    "improve": _CALIBRATED,
    "epochs": ("qat",),
    "learning_rate": ("qat",),
    "buckets": ("qat",),
    "max_drop_pp": ("mixed",),
    "minutes": ("mixed",),
}
"""The options that belong to some modes only, with those modes."""


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Options(Frozen):
    """Quantization; the scheme (signedness, symmetry, granularity) comes from the device profile."""

    mode: Annotated[tuple[Mode, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = ("ptq",)
    """One, or several in a list; each makes a variant of its own. "ptq" (variant `int8`): the trained network is
    calibrated. "qat" (`qat`): after that it is trained on, with the rounding of the integers in its forward pass and
    with its teachers. "mixed" (`mixed`): it is calibrated, and the layers that integers harm most stay in float, as few
    as `max_drop_pp` needs. "dynamic" (`dynamic`): linear layers alone, whose activations become integers at run time,
    on devices whose profile says that they do that (`quantization: {dynamic: true}`)."""
    exclude: tuple[str, ...] = ()
    """Names of layers that stay in float in every mode, with all that is in them."""
    samples: PositiveInt = 512
    """Calibration samples, taken from the training split."""
    calibration: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"
    """The range of an activation: all that was seen, all but the outermost values, that with the least squared error,
    or that whose integers are distributed most as the values are. Weights always keep their whole range."""
    percentile: Annotated[float, Field(gt=50, le=100)] | None = None
    """Of the values that `calibration: percentile` keeps, at either end. Default: 99.99."""
    improve: Literal["auto"] | tuple[Literal["equalize", "round", "bias"], ...] = "auto"
    """Methods that repair what calibration leaves: cross-layer equalization, weights rounded by what their layer gives,
    bias correction. Each stays only where the loss on the validation split falls by more than chance, and the score
    does not fall. "auto": the first and the last are tried where rounding leaves the answers less than 20 dB above its
    noise, which it does with a sound network of 8 bits hardly ever."""
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
    """Of `mode: qat`. Default: 0.3 of the student's, 0.02 of it with SGD."""
    max_drop_pp: Annotated[float, Field(ge=0, le=100)] | None = None
    """Of `mode: mixed`: percentage points that it may lose against its float network on the validation split. Default:
    the gate of this name, else 1."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Of `mode: mixed`: after so long the best so far is taken. Default: 10."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Options:
        if self.percentile is not None and self.calibration != "percentile":
            raise ValueError("percentile goes with calibration: percentile")
        if len(set(self.mode)) < len(self.mode):
            raise ValueError(f"mode: {', '.join(self.mode)}: each can be there once")
        if self.weights_bits == 2 and (self.buckets is None or self.mode != ("qat",)):
            raise ValueError(
                "weights_bits: 2 goes with buckets and mode: qat alone: no runtime has weights of 2 bits; choose 4 or 8"
            )
        for name, modes in OWN.items():
            if getattr(self, name) != _default(name) and not set(modes) & set(self.mode):
                raise ValueError(f"{name} goes with mode: {' or '.join(modes)}; without it, it means nothing")
        if self.improve not in ("auto", ()) and self.buckets is not None:
            raise ValueError("improve repairs what rounding to integers does; with buckets there are none")
        return self

    def of_mode(self, mode: Mode) -> Options:
        """Return what concerns one of the modes, so that its result does not depend on the options of another."""
        foreign = {name: _default(name) for name, modes in OWN.items() if mode not in modes}
        return self.model_copy(update={"mode": (mode,), **foreign})


def _default(name: str) -> Any:
    return Options.model_fields[name].default


STAGE = Stage(
    work="edgekd.compress.quantize:quantize",
    after=("distill", "prune", "factorize"),
    consumes=("model",),
    makes="int8",
    per="scheme",
    version=3,
    packages=("torch", "torchao"),
)
TRAINED = replace(
    STAGE,
    makes="qat",
    consumes=("model", "teacher", "targets"),
    reads=("teacher", "student", "distill"),
    packages=("torch", "torchao", "accelerate"),
    trains=True,
)
AT_RUN_TIME = replace(STAGE, work="edgekd.compress.dynamic:quantize", makes="dynamic", packages=("torch",))
"""The same with `mode: dynamic`."""
STAGES: Mapping[Mode, Stage] = {
    "ptq": STAGE,
    "qat": TRAINED,
    "mixed": replace(STAGE, makes="mixed"),
    "dynamic": AT_RUN_TIME,
}
"""What each mode is as a stage: what it needs, and which variant it makes."""
