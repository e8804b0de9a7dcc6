"""The block `search`: which spaces there are, and what is no space."""

from __future__ import annotations

import pytest

from edgekd import Recipe
from edgekd.errors import UsageError
from edgekd.space import Range, Search


def _search(**changes) -> Search:
    recipe = Recipe.load("digits")
    return Recipe.of(**{**recipe.resolved(), "search": {"space": {"distill.temperature": [1, 2]}, **changes}}).search


def test_a_recipe_with_a_search_is_what_its_resolved_form_says():
    space = {"distill.alpha": {"low": 0.1, "high": 0.9}, "student": [{"model": "mlp"}, {"model": "convnet"}]}
    recipe = Recipe.of(**{**Recipe.load("digits").resolved(), "search": {"space": space, "trials": 5}})
    assert Recipe.of(**recipe.resolved()) == recipe
    assert recipe.search.trials == 5
    assert Recipe.load("digits").search is None


@pytest.mark.parametrize(
    ("values", "whole"),
    [
        ({"low": 1, "high": 8}, True),
        ({"low": 8, "high": 32, "step": 8}, True),
        ({"low": 1.0, "high": 8}, False),
        ({"low": 0, "high": 2, "step": 0.5}, False),
    ],
)
def test_a_range_is_whole_where_all_that_is_written_is(values, whole):
    assert Range.model_validate(values).whole is whole


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"space": {}}, "search.space: nothing to vary"),
        ({"space": {"distill.alpha": []}}, "search.space.distill.alpha: [] is not allowed"),
        ({"space": {"distill.alpha": [0.1, 0.2, 0.1]}}, "0.1 is there twice"),
        ({"space": {"distill.alpha": 0.1}}, "0.1 is not allowed: must be a list or a mapping"),
        ({"space": {"distill.alpha": {"low": 0.9, "high": 0.1}}}, "low 0.9 must be less than high 0.1"),
        ({"space": {"distill.alpha": {"low": 0.1, "high": 0.1}}}, "low 0.1 must be less than high 0.1"),
        ({"space": {"distill.alpha": {"low": 0.1}}}, "search.space.distill.alpha.high: required, but missing"),
        ({"space": {"distill.alpha": {"low": 0.0, "high": 1, "log": True}}}, "log needs a low above 0"),
        ({"space": {"distill.alpha": {"low": 0.1, "high": 1, "log": True, "step": 0.1}}}, "do not go together"),
        ({"space": {"distill.alpha": {"low": 0.1, "high": 1, "step": 2}}}, "nothing but low is left"),
        ({"space": {"distill.alpha": {"low": 0, "high": 1}}}, "write [0, 1], or 0.0 and 1.0 for all between"),
        ({"trials": 0}, "search.trials: 0 is not allowed"),
        ({"max_macs": -1}, "search.max_macs: -1 is not allowed"),
        ({"seeds": -1}, "search.seeds: -1 is not allowed"),
        ({"prunner": True}, "unknown key"),
    ],
)
def test_what_is_no_search(changes, told):
    with pytest.raises(UsageError) as error:
        _search(**changes)
    assert told in str(error.value)
