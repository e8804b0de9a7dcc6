"""What `edgekd search` may vary of a recipe: the block `search`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator
from pydantic.functional_validators import AfterValidator

from edgekd.document import Frozen


class Range(Frozen):
    """Numbers from `low` to `high`, both included; whole ones if all that is written here is whole."""

    low: int | float
    high: int | float
    step: Annotated[int | float, Field(gt=0)] | None = None
    log: bool = False
    """Draw the logarithm evenly, for what matters by its order of magnitude."""

    @model_validator(mode="after")
    def _has_values(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be less than high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, not {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("log and step do not go together")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step {self.step:g} is more than high - low: nothing but low is left")
        if self.whole and self.high - self.low == 1:
            raise ValueError(
                f"there are two whole numbers only: write [{self.low}, {self.high}], or {self.low}.0 and {self.high}.0 "
                "for all between"
            )
        return self

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    texts = [json.dumps(value, sort_keys=True) for value in values]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is there twice")
    return values


def _not_empty(space: Mapping[str, Any]) -> Mapping[str, Any]:
    if not space:
        raise ValueError('nothing to vary; name places of the recipe, such as {"distill.temperature": [1, 2, 4]}')
    return space


Choices = Annotated[tuple[Any, ...], Field(min_length=1), AfterValidator(_distinct)]
"""Values that a recipe may have at a place, whole blocks too."""


class Search(Frozen):
    """Which students `edgekd search` tries. A trial is the recipe with other values, trained up to the student."""

    space: Annotated[Mapping[str, Choices | Range], AfterValidator(_not_empty)]
    """By place in the recipe, as in --set ("student.learning_rate"): a list of values, or {low, high, step, log}."""
    trials: PositiveInt = 30
    """In all, those of earlier calls included; the first one is the recipe as it is."""
    epochs: PositiveInt | None = None
    """Of the student in a trial. Default: a third of its own, rounded up."""
    startup: PositiveInt = 8
    """Trials at random, before the sampler learns from them and any is stopped early."""
    pruner: bool = True
    """Stop a trial that is worse after an epoch than half of the others were."""
    max_macs: PositiveInt | None = None
    """Students with more multiply-accumulates for one sample are not trained."""
    max_parameters: PositiveInt | None = None
    seeds: Annotated[int, Field(ge=0)] = 3
    """Fresh seeds on which the best trial and the recipe as it is are compared in the end."""
