"""A candidate's steps are those of an ordinary recipe with an explicit pruning, under the point's name."""

from __future__ import annotations

import pytest

from edgekd import Recipe, steps
from edgekd.device import Device, Quantization
from edgekd.dispatch.placing import Place
from edgekd.filing import Job
from edgekd.options import Gates
from edgekd.search import trials
from edgekd.search.proposing import EITHER, Candidate, Structure
from edgekd.stages.prune import Options as Pruning
from tests.tiny import tiny

BOX = {"box": Device(version=1, backend="onnxruntime", quantization=Quantization(activations="u8", reduce_range=False))}
STRUCTURE = Structure(("stages.0.0",), 0.5, ())
CANDIDATE = Candidate(1, EITHER, "descent", {"stem.0": 8}, 0.7)
BUDGET = {"min_speedup": 3, "trial_epochs": 1, "epochs": 4, "exclude": ["head"]}


def job(**changes):
    recipe = Recipe.of(**{**tiny(prune=False, budget=BUDGET), **changes})
    return Job(recipe, {name: Place(device, "here") for name, device in BOX.items()}, None, steps.steps(recipe, BOX))


def told(line):
    return {step.label: (step.name, step.variant, dict(step.needs)) for step in line.steps}


@pytest.fixture
def block():
    return trials.pruning(job().recipe, STRUCTURE, CANDIDATE, 4)


def test_the_pruning_is_explicit_and_trains_as_the_student_does(block):
    student = job().recipe.student
    assert block == Pruning(
        widths={"stem.0": 8}, blocks=("stages.0.0",), importance="distill_taylor", exclude=("head",), epochs=4,
        learning_rate=student.learning_rate,
    )  # fmt: skip
    slower = job(budget={**BUDGET, "learning_rate": 0.005}).recipe
    assert trials.pruning(slower, STRUCTURE, CANDIDATE, 1).learning_rate == 0.005


def test_a_point_is_quantized_in_all_modes_of_the_recipe(block):
    line = trials.whole(job(quantize={"mode": ["ptq", "qat"], "epochs": 2}), block, "small", Gates())
    assert [one.variant for one in line.steps if one.name == "quantize"] == ["small-int8-u8", "small-qat-u8"]


def test_a_point_is_all_that_follows_from_its_pruning(block):
    line = trials.whole(job(), block, "small", Gates())
    assert told(line) == {
        "small/prune": ("prune", "small", {"model": "distill", "teacher": "teacher", "targets": "targets"}),
        "small/quantize[int8-u8]": ("quantize", "small-int8-u8", {"model": "small/prune"}),
        "small/export[pruned]": ("export", "small", {"model": "small/prune"}),
        "small/export[int8-u8]": ("export", "small-int8-u8", {"model": "small/quantize[int8-u8]"}),
        "small/validate[pruned]": ("validate", "small", {"model": "small/prune", "onnx": "small/export[pruned]"}),
        "small/validate[int8-u8]": (
            "validate", "small-int8-u8", {"model": "small/quantize[int8-u8]", "onnx": "small/export[int8-u8]"}
        ),
    }  # fmt: skip
    assert line.recipe.options("prune") == block
    assert {step.point for step in line.steps} == {"small"}


def test_a_device_measures_a_points_variants_under_its_own_scheme(block):
    found = job()
    made = [
        *found.steps,
        *trials.whole(found, block, "small", Gates()).steps,
        *trials.plain(found, block, "small").steps,
    ]
    assert steps.variants(found.devices["box"], made) == {
        "teacher": "teacher", "student": "student", "int8": "int8-u8", "small": "small",
        "small-int8": "small-int8-u8", "baseline-small": "baseline-small",
    }  # fmt: skip


def test_a_trial_calibrates_whatever_the_recipe_trains_and_judges_each_network(block):
    line = trials.trial(job(quantize={"mode": "qat", "epochs": 3, "samples": 32}), block)
    assert told(line) == {
        "trial/prune": ("prune", "trial", {"model": "distill", "teacher": "teacher", "targets": "targets"}),
        "trial/quantize[int8-u8]": ("quantize", "trial-int8-u8", {"model": "trial/prune"}),
        "trial/judge[pruned]": ("judge", "trial", {"model": "trial/prune"}),
        "trial/judge[int8-u8]": ("judge", "trial-int8-u8", {"model": "trial/quantize[int8-u8]"}),
    }
    quantization = line.recipe.options("quantize")
    assert (quantization.mode, quantization.samples, quantization.epochs) == (("ptq",), 32, None)
    floats = trials.trial(job(quantize=False), block)
    assert list(told(floats)) == ["trial/prune", "trial/judge[pruned]"]


def test_the_plain_network_is_trained_as_long_in_all_and_depends_on_the_shape_alone(block):
    found = job()
    line = trials.plain(found, block, "small")
    assert told(line) == {
        "small/baseline": ("baseline", "baseline-small", {}),
        "export[baseline-small]": ("export", "baseline-small", {"model": "small/baseline"}),
        "validate[baseline-small]": (
            "validate", "baseline-small", {"model": "small/baseline", "onnx": "export[baseline-small]"}
        ),
    }  # fmt: skip
    step = line.steps[0]
    assert step.block(line.recipe, "student").epochs == found.recipe.student.epochs + 4
    other = trials.plain(found, block.model_copy(update={"learning_rate": 0.5}), "near").steps[0]
    assert step.given == other.given


def test_mixed_precision_may_lose_what_the_point_may(block):
    line = trials.whole(job(quantize={"mode": "mixed"}), block, "small", Gates(max_drop_pp=0.3))
    (step,) = [step for step in line.steps if step.name == "quantize"]
    assert step.variant == "small-mixed-u8"
    assert step.given["quantize"].max_drop_pp == 0.3
