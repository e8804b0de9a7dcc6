"""Option models that several stages share. Torch-free: a recipe is read, checked and planned without a framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, model_validator

from edgekd.document import Frozen, suggest
from edgekd.log import without_secrets
from edgekd.plugin import nameof
from edgekd.shipped import shipped_modules

NonNegativeInt = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0, le=100)]
Reduction = Literal["none", "mean"]
Name = Annotated[str, BeforeValidator(lambda value: nameof(value) if callable(value) else value)]
"""A name from YAML, or in the Python API the function itself, which is then known by its "package.module:function"."""


def _tracker(text: str) -> str:
    name, known = text.partition("=")[0], shipped_modules("trackers")
    if name not in known:
        raise ValueError(f"no tracker {name!r}{suggest(name, known)} (there are: {', '.join(known)})")
    if without_secrets(text) != text:
        raise ValueError(
            f"{name}: a password would be kept in the run's report; leave it to the environment, which {name} reads "
            "itself"
        )
    return text


Tracking = Annotated[
    tuple[Annotated[str, AfterValidator(_tracker)], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
"""Names of files of `edgekd/trackers`, each with an address (`mlflow=http://host:5000`) or without. One name is a list
of it."""


def _shorthand(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) or callable(value) else value


class Data(Frozen):
    """Which data, and how they are split. A bare string in YAML is the source."""

    source: Name
    """A shipped data set, an `.npz` file, a folder (images, arrays or tar files), or "package.module:function"."""
    validation: Annotated[float, Field(gt=0, lt=1)] | PositiveInt = 0.1
    """Part (or number) of the training split held out for every choice; unused when the source brings its own."""
    train_samples: PositiveInt | None = None
    """Use only so many training samples (a short form of a recipe)."""
    test_samples: PositiveInt | None = None
    stream: bool = False
    """Read the training images of a folder when they are needed, not at the start; arrays and tar files always are."""
    seed: NonNegativeInt | None = None
    """Of the choice of samples. Default: the recipe's seed."""
    omit: tuple[NonNegativeInt, ...] = ()
    """Classes that the teacher sees and no student does: left out of what students learn from and are calibrated on.
    Validation and test keep them."""


DataOptions = Annotated[Data, BeforeValidator(_shorthand)]


class Augment(Frozen):
    """Random views of the training inputs, made on tensors; teacher and student see the same view."""

    crop: NonNegativeInt = 0
    """Pad by so many pixels, then cut the original size at a random place."""
    flip: bool = False
    """Mirror left-right with probability one half."""
    brightness: Share = 0.0
    """Scale the image by a factor in [1 - brightness, 1 + brightness], measured from black."""
    contrast: Share = 0.0
    """Scale the difference from the image's mean by a factor in [1 - contrast, 1 + contrast]."""
    erase: NonNegativeInt = 0
    """Blacken a square of so many pixels a side, its centre anywhere in the image (Cutout)."""
    erase_share: Share = 1.0
    """Part of the views that are erased so."""
    mixup: NonNegative = 0.0
    """Add to each image another one of its batch: the alpha of Beta(alpha, alpha), which their shares come from."""
    cutmix: NonNegative = 0.0
    """Paste a rectangle of another image of the batch: alpha as above. With both, each batch is mixed one way."""
    views: PositiveInt | None = None
    """How many views of a sample there are: the epochs show them in turn. Default: a new one in each epoch."""


class Training(Frozen):
    """How a network is trained."""

    epochs: PositiveInt | None = None
    """Passes over the training split. Default: 10, or 0 (use as it is) where `weights` are given."""
    batch_size: PositiveInt = 128
    """Samples of an update, over all processes and parts."""
    accumulate: PositiveInt = 1
    """Compute an update's gradient in so many parts, one after the other, to save memory."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    milestones: tuple[Share, ...] = (0.6, 0.8)
    """Parts of the training after which the learning rate is multiplied by gamma (schedule: step)."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Part of the steps over which the learning rate rises linearly from zero."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient of all parameters together."""
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Keep an exponential moving average of the weights with this decay instead of the weights themselves."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """"auto" is bf16 autocast where the processor computes in bf16, fp32 elsewhere; the result says which it was."""
    compile: bool = False
    """Compile the network with `torch.compile`, which needs a C++ compiler and pays in long trainings."""
    workers: NonNegativeInt | None = None
    """Processes that read data which are not held in memory. Default: the cores, four at most."""
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
            return {**values, "epochs": None if values.get("weights") or values.get("onnx") else 10}
        return values

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for the network's factory, from `args` and the shipped networks' own keys."""
        own = {"width": self.width, "widths": self.widths, "blocks": self.blocks}
        return {**self.args, **{key: value for key, value in own.items() if value is not None}}


class Teacher(Network):
    """A teacher: a network, or an ONNX file, of which only the answers are known."""

    model: Name = ""
    onnx: Path | None = None
    """An ONNX file instead of a `model`. It is taken as it is; no other key goes with it."""

    @model_validator(mode="after")
    def _one_kind(self) -> Teacher:
        if bool(self.model) == (self.onnx is not None):
            raise ValueError("a teacher is either a `model` or an `onnx` file")
        more = sorted(self.model_dump(exclude_defaults=True).keys() - {"onnx"})
        if self.onnx is not None and more:
            raise ValueError(f"an ONNX teacher is taken as it is; remove {', '.join(more)}")
        return self


class Gates(Frozen):
    """Limits on a variant, such as what the recommended one must keep on every device."""

    max_drop_pp: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percentage points of the metric lost against the teacher."""
    min_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    min_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Part of the answers that are the teacher's."""
    min_speedup: Positive | None = None
    """Paired latency ratio, teacher over variant."""
    max_p50_ms: Positive | None = None
    max_p99_ms: Positive | None = None
    max_size_mb: Positive | None = None
    """Of the ONNX file; 1 MB is 10^6 bytes."""
    min_compression: Positive | None = None
    """Teacher's file size over the variant's."""
    max_peak_memory_mb: Positive | None = None
    max_energy_mj: Positive | None = None
    """Gross millijoules per inference."""
    require_energy: bool = False
    """Energy that could not be measured fails the gate."""
