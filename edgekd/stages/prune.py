"""Remove channels, blocks or single weights, then fine-tune with the teacher (docs/compression.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from edgekd.document import Frozen
from edgekd.options import NonNegativeInt
from edgekd.stage import Stage

RATIO = 0.5


class Sparsity(Frozen):
    """Single weights that become zero, and stay zero while the network is fine-tuned: `ratio`, or `n` of every `m`."""

    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Part of the weights of convolutions and linear layers, the smallest by absolute value; `scope` holds here too."""
    n: PositiveInt | None = None
    """Weights that stay in each run of `m` along the input channels."""
    m: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Sparsity:
        if (self.n is None) != (self.m is None):
            raise ValueError("n and m go together: {n: 2, m: 4} keeps 2 of every 4 weights")
        if (self.ratio is None) == (self.n is None):
            raise ValueError("give either ratio (any weights), or n and m (n of every m weights)")
        if self.n is not None and self.m is not None and self.n >= self.m:
            raise ValueError(f"n must be smaller than m: {self.n} of every {self.m} weights leave none to remove")
        return self


class Options(Frozen):
    """Structured pruning through the dependency graph (DepGraph: Fang et al. 2023, arXiv:2301.12900), and sparsity."""

    ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Part of the channels to remove, as nearly as `round_to` allows; 0 removes none. One that would leave a layer
    without a channel is an error. Default: 0.5, where there are no `widths` and no `blocks`."""
    widths: Mapping[str, PositiveInt] | None = None
    """Instead of ratio: how many channels stay, by the layer that gives its group of channels its name; groups that are
    not named keep theirs. `edgekd recipe layers` lists the names."""
    blocks: tuple[str, ...] | None = None
    """Instead of depth: the names of the residual blocks to remove."""
    importance: Literal["magnitude", "bn_scale", "taylor", "distill_taylor"] = "magnitude"
    """What makes a channel count, summed over all layers that lose it: the squared weights, the scale of its BatchNorm,
    or how much the loss would change without it, to first order: the task's, or that of the distillation."""
    batches: PositiveInt = 8
    """Training batches that `taylor`, `distill_taylor` and `depth` compute their losses on."""
    round_to: PositiveInt = 8
    """Channels that remain are a multiple of this: vector units have that width. Of a layer stays the multiple (or its
    whole width) nearest to what the ratio asks for, of two equally near ones the larger: at a ratio of 0.25 a layer of
    16 keeps 16, one of 32 keeps 24. A ratio that leaves every layer as it is, is an error."""
    scope: Literal["uniform", "global"] = "uniform"
    """"uniform": the ratio holds in every layer. "global": layers compete, unimportant ones lose more."""
    exclude: tuple[str, ...] = ()
    """Names of layers that are not touched, with all that is in them. The last layer always keeps its outputs."""
    depth: NonNegativeInt = 0
    """Residual blocks to remove: one after the other the one without which the distillation loss is the smallest."""
    sparsity: Sparsity | None = None
    """Single weights too. Whether it gains time is up to the runtime; the report says what it gained."""
    steps: PositiveInt = 1
    """Cuts in which all this happens in equal parts, with fine-tuning after each."""
    epochs_between: PositiveInt | None = None
    """Fine-tuning between two cuts. Default: 1."""
    epochs: PositiveInt = 5
    """Fine-tuning after the last cut; the other training options are the student's (or the teacher's, where there is no
    student)."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Default: a third of the student's."""

    @model_validator(mode="before")
    @classmethod
    def _default_ratio(cls, values: Any) -> Any:
        if isinstance(values, dict) and all(values.get(key) is None for key in ("ratio", "widths", "blocks")):
            return {**values, "ratio": RATIO}
        return values

    @model_validator(mode="after")
    def _one_way(self) -> Options:
        explicit = [key for key in ("widths", "blocks") if getattr(self, key) is not None]
        chosen = [key for key in ("ratio", "depth") if getattr(self, key)]
        if explicit and (chosen or self.steps > 1):
            raise ValueError(
                f"{explicit[0]} says exactly what goes, in one cut; remove {(*chosen, 'steps')[0]}, which says "
                "how much edgekd shall choose"
            )
        return self

    @model_validator(mode="after")
    def _something_to_do(self) -> Options:
        if not self.ratio and not self.depth and self.sparsity is None and not self.widths and not self.blocks:
            raise ValueError(
                "there is nothing to prune: ratio is 0, depth is 0 and there is no sparsity; or switch it off "
                "(prune: false)"
            )
        if self.epochs_between is not None and self.steps == 1:
            raise ValueError("epochs_between goes with steps: of one step there is no between; set steps to 2 or more")
        return self


STAGE = Stage(
    work="edgekd.compress.pruning:prune",
    rehearsal="edgekd.compress.pruning:rehearse",
    after=("distill",),
    consumes=("model", "teacher", "targets"),
    reads=("teacher", "student", "distill"),
    makes="pruned",
    version=3,
    packages=("torch", "accelerate", "torch-pruning"),
    trains=True,
)
