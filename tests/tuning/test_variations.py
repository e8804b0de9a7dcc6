"""The recipes of trials: what is put where, what is refused before any work, what tells two searches apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from edgekd import checks
from edgekd.errors import UsageError
from edgekd.tuning import variations
from edgekd.tuning.variations import Variations, at, named, short, told, written

CHECKED = partial(checks.check, found=(), data_dir=None)


@pytest.fixture
def vary(write_recipe) -> Callable[..., Variations]:
    """Return a function that gives the variations of a small recipe with this space."""

    def make(space: dict[str, Any], **search: Any) -> Variations:
        return Variations(written(str(write_recipe(search={"space": space, **search})), ()))

    return make


def test_a_trial_is_the_recipe_with_its_values_and_the_epochs_of_a_trial(vary):
    found = vary({"distill.temperature": [1, 2]}, epochs=7).trial({"distill.temperature": 2})
    assert (found.options("distill").temperature, found.student.epochs) == (2, 7)


def test_a_trial_trains_a_third_of_the_epochs(vary, write_recipe):
    path = write_recipe(
        search={"space": {"distill.temperature": [1, 2]}}, student={"model": "mlp", "widths": [16], "epochs": 10}
    )
    assert Variations(written(str(path), ())).epochs == 4
    assert Variations(written(str(path), ("student.epochs=2",))).epochs == 1


def test_whole_blocks_come_before_what_is_in_them(vary):
    found = vary({"student.learning_rate": [0.1, 0.2], "student": [{"model": "mlp", "widths": [4]}]}).trial(
        {"student.learning_rate": 0.2, "student": {"model": "mlp", "widths": [4]}}
    )
    assert (found.student.widths, found.student.learning_rate) == ((4,), 0.2)


def test_the_recipes_own_values_are_found_where_the_space_has_them(vary):
    own = vary(
        {
            "distill.temperature": [1, 4],  # 4 is the default
            "distill.alpha": {"low": 0.0, "high": 0.5},  # 0.9 is not within
            "student.learning_rate": {"low": 1.0e-4, "high": 1.0e-1, "log": True},  # 1e-3
            "student.batch_size": {"low": 4, "high": 32, "step": 4},  # 8
            "student.gradient_clip": {"low": 0.5, "high": 2.0},  # null
            "student": [{"model": "mlp", "widths": [8]}, {"model": "mlp", "widths": [16], "batch_size": 8}],
        }
    ).own()
    block = {"model": "mlp", "widths": [16], "batch_size": 8}
    assert own == {"distill.temperature": 4, "student.learning_rate": 1e-3, "student.batch_size": 8, "student": block}


def test_a_whole_number_off_the_steps_is_not_in_a_range(vary):
    assert vary({"student.batch_size": {"low": 3, "high": 33, "step": 3}}).own() == {}


@pytest.mark.parametrize(
    ("space", "messages"),
    [
        ({"studnt.width": [1]}, ["search.space: studnt.width: there is no 'studnt' in a recipe", '"student"']),
        ({"quantize.samples": [8]}, ["quantize does not change how a trial's student is trained; vary teacher"]),
        (
            {"data.train_samples": [8, 9], "student.batch_size": [8, 0]},
            ["data does not change", "student.batch_size=0: "],
        ),
        ({"student.epochs": [1, 2]}, ["set search.epochs"]),
        ({"student.widht": [8]}, ["student.widht=8: student.widht: unknown key", '"width"']),
        ({"distill.alpha": {"low": 0.5, "high": 1.5}}, ["distill.alpha=1.5: distill.alpha: 1.5 is not allowed"]),
        (
            {"distill.temperature": [1, -2], "student": [{"model": "mpl"}, {"width": 3}]},
            ["distill.temperature=-2: ", 'student={model: mpl}: student.model: no network \'mpl\'; did you mean "mlp"',
             "student={width: 3}: student.model: required, but missing"],
        ),
        (  # an inner value that fits one of the blocks alone
            {"student": [{"model": "mlp", "widths": [8]}, {"model": "convnet"}], "student.width": [4, 8]},
            ["student={model: mlp, widths: [8]}, student.width=4: student: "],
        ),
        ({"distill.losses": [["kd"], ["kdd"]]}, ["there is no loss 'kdd'"]),
    ],
)  # fmt: skip
def test_every_value_is_checked_and_every_problem_told(vary, space, messages):
    with pytest.raises(UsageError) as error:
        vary(space).check(CHECKED)
    for message in messages:
        assert message in str(error.value)


def test_a_right_space_is_not_complained_about(vary):
    vary(
        {
            "distill.temperature": {"low": 1.0, "high": 8.0},
            "distill": [{"temperature": 2}, {"losses": ["dkd", "sp"]}],
            "student": [{"model": "mlp", "widths": [8]}, {"model": "convnet", "width": 8, "blocks": [1]}],
            "teacher": [{"model": "mlp", "widths": [64], "epochs": 1}],
            "student.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        }
    ).written.recipe({})
    found = vary({"student": [{"model": "mlp", "widths": [8]}], "student.learning_rate": {"low": 0.1, "high": 0.2}})
    found.check(CHECKED)
    assert [dict(changes) for changes in found.extremes()] == [
        {"student": {"model": "mlp", "widths": [8]}},
        {"student": {"model": "mlp", "widths": [8]}, "student.learning_rate": 0.1},
        {"student": {"model": "mlp", "widths": [8]}, "student.learning_rate": 0.2},
    ]


def test_a_recipe_without_a_search_or_a_student_is_refused(write_recipe):
    with pytest.raises(UsageError, match="has no block `search`"):
        written("digits", ())
    path = write_recipe(search={"space": {"teacher.epochs": [1]}}, distill=False, student=None)
    with pytest.raises(UsageError, match="trains no student"):
        written(str(path), ())


def test_an_edit_of_the_file_does_not_change_a_search_that_began(vary, workplace):
    found = vary({"distill.temperature": [1, 2]})
    (workplace / "small.yaml").write_text("version: 1")
    assert found.trial({"distill.temperature": 2}).options("distill").temperature == 2


def test_the_number_of_trials_tells_no_search_apart_but_all_else_does(vary):
    space = {"distill.temperature": [1, 2]}
    digest = vary(space).digest("data")
    assert vary(space, trials=99, seeds=0).digest("data") == digest
    others = [vary(space, **more).digest("data") for more in ({"epochs": 3}, {"pruner": False}, {"startup": 2})]
    others += [vary(space).digest("other"), vary({"distill.temperature": [1, 3]}).digest("data")]
    assert len({digest, *others}) == 6


def test_a_users_network_is_part_of_what_a_search_is(write_recipe, workplace):
    def digest(width: int) -> str:
        (workplace / "nets.py").write_text(f"def net(): return {width}")
        path = write_recipe(search={"space": {"student": [{"model": "nets:net"}]}})
        return Variations(written(str(path), ())).digest("data")

    assert digest(1) == digest(1) != digest(2)


def test_places_and_values_in_a_few_characters(write_recipe):
    recipe = variations.Recipe.load("digits")
    assert at(recipe, "teacher.blocks.1") == 2
    assert at(recipe, "teacher.blocks.9") is at(recipe, "teacher.nothing.there") is None
    assert told({"a.b": 0.123456, "c": {"model": "mlp"}}) == "a.b=0.1235, c={model: mlp}"
    assert told({}) == "the recipe as it is"
    assert short(json.loads("[1, 2, 3]")) == "[1, 2, 3]"
    assert short("x" * 99, 10) == "xxxxxxx..."
    assert named(["a.x", "b.y", "c.y"]) == {"a.x": "x", "b.y": "b.y", "c.y": "c.y"}
