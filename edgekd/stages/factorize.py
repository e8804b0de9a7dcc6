"""Replace layers by products of smaller ones, then fine-tune with the teacher.

Linear layers by the singular value decomposition, convolutions by Tucker-2 (Kim et al. 2016, arXiv:1511.06530).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from edgekd.document import Frozen
from edgekd.stage import Stage

ENERGY = 0.9
OpenShare = Annotated[float, Field(gt=0, lt=1)]


class Options(Frozen):
    """Low rank: ranks by `energy`, the same demand on every layer, or by a `budget`, for which layers compete."""

    energy: OpenShare | None = None
    """Part of the squared singular values of a weight that its ranks keep at least (of a kernel, of its squared
    entries). Default: 0.9, where there is no budget."""
    budget: OpenShare | None = None
    """Instead of energy: part of the network's cost that stays at most."""
    cost: Literal["macs", "parameters"] = "macs"
    """What is to fall. A layer is factorized only where both fall."""
    round_to: PositiveInt = 8
    """Ranks are a multiple of this: vector units have that width."""
    exclude: tuple[str, ...] = ()
    """Names of layers that stay as they are, with all that is in them."""
    epochs: PositiveInt = 5
    """Fine-tuning; the other training options are the student's (or the teacher's, where there is no student)."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Default: a third of the student's."""

    @model_validator(mode="before")
    @classmethod
    def _default_energy(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("energy") is None and values.get("budget") is None:
            return {**values, "energy": ENERGY}
        return values

    @model_validator(mode="after")
    def _one_rule(self) -> Options:
        if self.energy is not None and self.budget is not None:
            raise ValueError("energy and budget are two ways to choose ranks: remove one (null)")
        return self


STAGE = Stage(
    work="edgekd.compress.factorization:factorize",
    after=("distill", "prune"),
    consumes=("model", "teacher", "targets"),
    reads=("teacher", "student", "distill"),
    makes="factorized",
    packages=("torch", "accelerate"),
    trains=True,
    default=False,
)
