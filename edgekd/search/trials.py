"""A candidate as an ordinary recipe: explicit pruning of the student, with all that follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekd import making, steps
from edgekd.artifact import Artifact
from edgekd.document import Frozen
from edgekd.filing import Job
from edgekd.options import Gates
from edgekd.recipe import Recipe
from edgekd.search.proposing import Candidate, Structure
from edgekd.stage import Stage
from edgekd.stages.baseline import STAGE as BASELINE
from edgekd.stages.baseline import Options as Baseline
from edgekd.stages.budget import Options as Budget
from edgekd.stages.prune import Options as Pruning
from edgekd.stages.quantize import Options as Quantization
from edgekd.steps import Step

PRUNE = "prune"
PLAIN = replace(BASELINE, work="edgekd.compress.plain:train", reads=("student", PRUNE))
"""The plainly trained network of a shape."""
JUDGE = Stage(work="edgekd.compress.scoring:judge", consumes=("model",), packages=("torch", "torchao"), seeded=False)
"""The validation score of any network."""


class _NoOptions(Frozen):
    """A step that has nothing to say."""


@dataclass(frozen=True)
class Line:
    """The steps of a candidate, and the recipe that they belong to."""

    recipe: Recipe
    steps: tuple[Step, ...]


def pruning(recipe: Recipe, structure: Structure, candidate: Candidate, epochs: int) -> Pruning:
    """Return the block of a recipe that makes a candidate of the student."""
    budget, student = options(recipe), recipe.student
    assert student is not None
    return Pruning(
        widths=dict(candidate.widths), blocks=structure.removed, importance="distill_taylor", batches=budget.batches,
        exclude=budget.exclude, epochs=epochs, learning_rate=budget.learning_rate or student.learning_rate,
    )  # fmt: skip


def options(recipe: Recipe) -> Budget:
    """Return the budget of a recipe that has one."""
    found = recipe.options("budget")
    assert isinstance(found, Budget)
    return found


def trial(job: Job, block: Pruning) -> Line:
    """Return the steps of a short training, and those that judge the network, float and in integers of each scheme."""
    given = job.recipe.options("quantize")
    kept = {"samples", "calibration", "percentile", "exclude"}
    calibrated = Quantization(**given.model_dump(include=kept)) if isinstance(given, Quantization) else None
    recipe = _derived(job.recipe, block).model_copy(update={"quantize": calibrated})
    made = [step for step in _following(steps.steps(recipe, job.devices)) if step.name in (PRUNE, "quantize")]
    judging = [
        Step(f"judge[{step.variant}]", "judge", JUDGE, step.variant, {"model": step.label}, {"judge": _NoOptions()})
        for step in made
    ]
    return Line(recipe, tuple(_named([*made, *judging], "trial")))


def whole(job: Job, block: Pruning, name: str, limits: Gates) -> Line:
    """Return the steps of a point: its networks, their files, and what the files are compared with.

    Args:
        limits: of the point, which stand in for the gates of an ordinary recipe.
    """
    recipe = _derived(job.recipe, block).model_copy(update={"gates": limits})
    return Line(recipe, tuple(_named(_following(steps.steps(recipe, job.devices)), name)))


def plain(job: Job, block: Pruning, name: str) -> Line:
    """Return the steps of the plainly trained network of the same shape, for as many epochs in all."""
    recipe, student = job.recipe, job.recipe.student
    assert student is not None
    epochs = (student.epochs or 0) + block.epochs
    variant = f"baseline-{name}"
    given = {
        "baseline": Baseline(), "student": student.model_copy(update={"epochs": epochs}),
        PRUNE: Pruning(widths=block.widths, blocks=block.blocks, exclude=block.exclude),
    }  # fmt: skip
    made = Step(f"{name}/baseline", "baseline", PLAIN, variant, given=given, point=name)
    return Line(recipe, (made, *_exported(job, made, variant)))


def make(job: Job, line: Line, known: Mapping[str, Artifact]) -> dict[str, tuple[Artifact, bool]]:
    """Make the steps of a candidate, and return each one's artifact, and whether it was there already."""
    found: dict[str, tuple[Artifact, bool]] = {}
    for step in line.steps:
        there = {**known, **{label: artifact for label, (artifact, _) in found.items()}}
        found[step.label] = making.make(job.shop, line.recipe, step, there)
    return found


def _derived(recipe: Recipe, block: Pruning) -> Recipe:
    return recipe.model_copy(update={PRUNE: block, "budget": None, "baseline": None})


def _following(made: Sequence[Step]) -> list[Step]:
    """Return the pruning step and all that needs what it makes."""
    found: dict[str, Step] = {}
    for step in made:
        if step.name == PRUNE or any(label in found for label in step.needs.values()):
            found[step.label] = step
    return list(found.values())


def _exported(job: Job, made: Step, variant: str) -> Iterator[Step]:
    """Yield the export and the validation of a variant, as the student has them."""
    label = made.label
    for step in job.steps:
        if step.variant == "student" and step.stage.per == "variant":
            name = f"{step.name}[{variant}]"
            needs = {role: label if role == "model" else f"export[{variant}]" for role in step.needs}
            yield replace(step, label=name, variant=variant, needs=needs, point=made.point)


def _named(made: Sequence[Step], name: str) -> Iterator[Step]:
    """Yield steps under the name of a point: of the variant `int8-u8`, `small-int8-u8`."""
    labels = {step.label: f"{name}/{step.label}" for step in made}
    for step in made:
        variant = name if step.variant == "pruned" else f"{name}-{step.variant}"
        needs = {role: labels.get(label, label) for role, label in step.needs.items()}
        yield replace(step, label=labels[step.label], variant=variant, needs=needs, point=name)
