"""Students of one recipe, trained and scored as single artifacts: what a study and a search are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from edgekd import making, steps
from edgekd import plan as planning
from edgekd.agent.sealing import digest_of
from edgekd.artifact import Artifact
from edgekd.document import Frozen
from edgekd.making import Workshop
from edgekd.recipe import Recipe
from edgekd.stage import Stage
from edgekd.steps import Step

BASELINE = "baseline"
SCORING = Stage(work="edgekd.training.scoring:score", consumes=("model",), packages=("torch",), seeded=False)


class _NoOptions(Frozen):
    """A step that has nothing to say."""


def prepared(recipe: Recipe, shop: Workshop, made: dict[str, Artifact]) -> dict[str, Artifact]:
    """Make all that the student's step needs (teachers, their answers, assistants), what is equal only once.

    Args:
        made: by its key, what was made before; added to.

    Returns:
        The artifacts by the labels of their steps and by their variants.
    """
    known: dict[str, Artifact] = {}
    for step in steps.training_steps(recipe)[:-1]:
        if step.name == BASELINE:
            continue
        inputs = {role: known[label] for role, label in step.needs.items()}
        key = digest_of(planning.parts(step, recipe, shop.data, inputs, shop.compute))
        if key not in made:
            made[key], _ = making.make(shop, recipe, step, known)
        known |= {step.label: made[key], step.variant: made[key]}
    return known


def student(recipe: Recipe, label: str, known: Mapping[str, Artifact], shop: Workshop) -> Artifact:
    """Train the student.

    Args:
        label: what the step is called in this run.
        known: what `prepared` gave.

    Raises:
        StageError: the training failed.
    """
    last = steps.training_steps(recipe)[-1]
    return making.make(shop, recipe, replace(last, label=label), known)[0]


def seeded(recipe: Recipe, seed: int) -> Recipe:
    """Return a recipe with another seed on the same samples."""
    data = recipe.data.model_copy(update={"seed": planning.data_seed(recipe)})
    return recipe.model_copy(update={"seed": seed, "data": data})


def scores(
    recipe: Recipe, found: Artifact, shop: Workshop, label: str, split: Literal["test", "validation"] = "test"
) -> np.ndarray:
    """Return the score of each sample of a split, float64 (N,)."""
    context = {} if split == "test" else {"split": split}
    given = {"score": _NoOptions()}
    step = Step(f"score[{label}]", "score", SCORING, "", {"model": "model"}, given, context)
    scored, _ = making.make(shop, seeded(recipe, recipe.seed), step, {"model": found})
    kept: np.ndarray = np.load(scored.path / scored.facts["file"], allow_pickle=False)
    return kept
