"""Train the student to answer, and to see, as its teachers do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from edgekd.document import Frozen
from edgekd.options import NonNegative, Positive, Share, Temperature
from edgekd.stage import Stage
from edgekd.terms import One, Term, Terms

TEMPERATURE, ALPHA = 4.0, 0.9


class Options(Frozen):
    """What the student minimises: labels * (the task's loss) + the sum of weight * loss over `losses`.

    The short form is response distillation (Hinton, Vinyals, Dean 2015, arXiv:1503.02531) with `temperature` T and
    `alpha`: (1 - alpha) * task loss + alpha * T^2 * KL(teacher || student).
    """

    temperature: Temperature | None = None
    """Of the short form. Default: 4."""
    alpha: Share | None = None
    """Weight of the teacher in the short form; 0 learns from the labels alone. Default: 0.9."""
    losses: Terms | None = None
    """Instead of the short form, any number of terms: names (with their published weights), or names with options."""
    labels: NonNegative | None = None
    """Weight of the task's own loss beside `losses`. Default: 1, or what the papers of the losses have (kd: 0.1)."""
    fusion: Literal["mean", "weighted", "entropy", "confidence", "gradient"] = "mean"
    """How several teachers become one (docs/distillation.md)."""
    shares: Mapping[str, Positive] | None = None
    """Each teacher's part, by its name, for `fusion: weighted`."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("losses") is None:
            given = {key: value for key, value in values.items() if value is not None}
            return {"temperature": TEMPERATURE, "alpha": ALPHA, **given}
        return values

    @model_validator(mode="after")
    def _one_form(self) -> Options:
        if self.losses is None and self.labels is not None:
            raise ValueError("labels goes with losses; the short form has alpha, and 1 - alpha is the labels' weight")
        if self.losses is not None and (self.temperature is not None or self.alpha is not None):
            raise ValueError(
                "temperature and alpha are the short form: remove them (null) beside losses: [{kd: {temperature: 4}}]"
            )
        if self.losses is not None and not self.losses and self.labels == 0:
            raise ValueError("there is nothing to learn from: no losses, and labels: 0")
        if (self.fusion == "weighted") != (self.shares is not None):
            raise ValueError("fusion: weighted and shares: {teacher: part} go together")
        return self

    def terms(self) -> tuple[Term, ...]:
        """Return the terms beside the task's own loss."""
        if self.losses is not None:
            return tuple(one.term() for one in self.losses)
        if not self.alpha:
            return ()
        short = One.model_validate({"kd": {"temperature": self.temperature, "weight": self.alpha}})
        return (short.term(),)

    def labels_weight(self) -> float:
        """Return the weight of the task's own loss."""
        if self.losses is None:
            return 1 - (self.alpha or 0)
        if self.labels is not None:
            return self.labels
        return min((term.loss.labels for term in self.terms()), default=1.0)


STAGE = Stage(
    work="edgekd.distill.distill:distill",
    after=("choose", "baseline", "targets"),
    consumes=("teacher", "targets"),
    reads=("student",),
    makes="student",
    version=2,
    per="lesson",
    packages=("torch", "accelerate"),
    trains=True,
)
