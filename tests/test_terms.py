"""Terms of the distillation loss: what a recipe may say is what the functions take."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import create_model
from tiny import tiny

from edgekd import Recipe
from edgekd.distill.losses import precision
from edgekd.document import DocumentError, Frozen, check_dict
from edgekd.stages.distill import Options
from edgekd.terms import Layered, Loss, One, Pair, Weighting, losses

NAMES = sorted({loss.name for loss in losses().values()})


def function(loss: Loss, suffix: str = "") -> Callable[..., Any]:
    return getattr(importlib.import_module(f"edgekd.distill.losses.{loss.family}"), loss.name + suffix)


def taken(made: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return {option: (annotation, default)} of a function, as Python sees it."""
    hints = typing.get_type_hints(made, vars(importlib.import_module(made.__module__)), include_extras=True)
    return {
        name: (hints[name], parameter.default)
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        and name not in ("reduction", "samples")
        and "Tensor" not in str(hints[name])
    }


def terms(*written: Any, **more: Any) -> Options:
    return check_dict({"losses": list(written), **more}, Options, "distill")


# ---- the signatures are the schema


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_may_say_what_the_function_takes(name):
    loss = losses()[name]
    own, making = taken(function(loss)), taken(function(loss, "_parts")) if loss.parts else {}
    assert (set(loss.own), set(loss.making)) == (set(own), set(making))
    base = Weighting if loss.on == "answers" else Layered
    assert set(loss.schema.model_fields) == {*base.model_fields, *own, *making}
    real = create_model("Real", __base__=Frozen, **(making | own)).model_json_schema()["properties"]
    read = loss.schema.model_json_schema()["properties"]
    assert {option: read[option] for option in real} == real


@pytest.mark.parametrize("name", NAMES)
def test_what_a_term_hands_over_is_what_the_function_was_given(name):
    loss = losses()[name]
    (term,) = terms(name).terms()
    defaults = {option: default for option, (_, default) in taken(function(loss)).items()}
    assert term.arguments(loss.own) == defaults
    inspect.signature(function(loss)).bind_partial(None, None, **term.arguments(loss.own), reduction="mean")


@pytest.mark.parametrize("name", NAMES)
def test_a_term_without_a_weight_has_the_published_one(name):
    loss = losses()[name]
    setting = importlib.import_module(f"edgekd.distill.losses.{loss.family}").SETTINGS[name]
    options = terms({name: {}})
    assert options.terms()[0].weighting.weight == setting["weight"]
    assert options.labels_weight() == setting.get("labels", 1.0)


def test_every_file_with_losses_is_read():
    folder = Path(precision.__file__).parent
    families = {path.stem for path in folder.glob("*.py") if "\nSETTINGS" in path.read_text()}
    assert {loss.family for loss in losses().values()} == families
    assert len(families) >= 4


def test_what_looks_at_labels_or_learns_or_takes_all_layers_is_known_by_its_signature():
    found = losses()
    assert {name for name in NAMES if found[name].targets} == {"dkd"}
    assert {name for name in NAMES if found[name].parts} == {"vid", "infonce", "crd", "reviewkd"}
    assert {name for name in NAMES if found[name].together} == {"reviewkd"}
    assert {found[name].default_layer for name in NAMES if found[name].on == "features"} == {"map", "embedding"}
    assert found["hint"].equal_shapes
    assert not found["attention"].equal_shapes


# ---- how they are written


def test_a_bare_name_an_alias_and_an_empty_block_are_the_same_term():
    written = [terms(one).terms() for one in ("attention", "at", {"at": {}}, {"attention": None}, {"attention": {}})]
    assert all(found == written[0] for found in written)
    assert terms("at").model_dump(mode="json")["losses"][0].keys() == {"attention"}


def test_one_pair_of_layers_and_a_list_of_one_are_the_same():
    pair = {"student": "stages.1", "teacher": "stages.2"}
    one, several = (terms({"at": {"layers": layers}}).terms()[0] for layers in (pair, [pair]))
    assert one == several
    assert one.layers == (Pair(student="stages.1", teacher="stages.2"),)
    assert terms("kd").terms()[0].layers is None


def test_the_short_form_is_kd_and_the_rest_of_the_labels():
    options = Options.model_validate({"alpha": 0.7, "temperature": 2})
    (term,) = options.terms()
    assert (term.loss.name, term.weighting.weight) == ("kd", 0.7)
    assert term.arguments(term.loss.own)["temperature"] == 2
    assert options.labels_weight() == pytest.approx(0.3)
    assert Options.model_validate({}) == Options.model_validate({"alpha": 0.9, "temperature": 4.0})
    assert Options.model_validate({"alpha": 0}).terms() == ()


@pytest.mark.parametrize(
    ("written", "labels", "weight"),
    [
        (["kd"], None, 0.1),
        (["attention"], None, 1.0),
        (["kd", "attention"], None, 0.1),  # the smallest of the published ones
        (["attention", {"kd": {"weight": 3}}], None, 0.1),
        (["kd"], 0.5, 0.5),
        (["kd"], 0, 0.0),
        ([], None, 1.0),
    ],
)
def test_the_weight_of_the_labels(written, labels, weight):
    assert terms(*written, labels=labels).labels_weight() == weight


@pytest.mark.parametrize(
    "losses",
    [
        None,
        [],
        ["kd"],
        ["at", {"kd": {"temperature": 2, "weight": 0.5, "schedule": "warmup", "over": 0.2}}, "dkd"],
        [{"hint": {"layers": {"student": "a", "teacher": "b:input"}}}, {"mmd": {"bandwidths": [1, 2]}}],
        [{"crd": {"negatives": 7, "momentum": 0.9, "temperature": 0.1}}],
        sorted(NAMES),
    ],
)
def test_what_resolved_prints_is_the_same_recipe(losses):
    recipe = Recipe.of(**tiny(distill={"losses": losses} if losses is not None else {"alpha": 0.5}))
    for text in (yaml.safe_dump(recipe.resolved()), json.dumps(recipe.resolved())):
        content = yaml.safe_load(text)
        assert content.pop("version") == 1
        assert Recipe.of(**content) == recipe


# ---- weights over the training


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, {0: 8, 0.3: 8, 0.99: 8}),
        ({"schedule": "warmup", "over": 0.4}, {0: 0, 0.1: 2, 0.2: 4, 0.4: 8, 0.9: 8}),
        ({"schedule": "warmup"}, {0: 0, 0.05: 4, 0.1: 8, 1: 8}),
        ({"schedule": "cosine"}, {0: 8, 1 / 3: 6, 0.5: 4, 2 / 3: 2, 1: 0}),
    ],
)
def test_a_schedule(schedule, expected):
    weighting = terms({"kd": {"weight": 8, **schedule}}).terms()[0].weighting
    assert {at: weighting.at(at) for at in expected} == pytest.approx(expected, abs=1e-12)
    assert all(math.isfinite(weighting.at(step / 50)) and weighting.at(step / 50) >= 0 for step in range(50))


# ---- what is told


RECIPE = "version: 1\ndata: digits\nteacher: {model: mlp}\nstudent: {model: mlp}\ndistill:\n  losses:\n"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("kdd", ["distill.losses.0", "there is no loss 'kdd'", 'did you mean "kd"?', "attention"]),
        ("{attn: {}}", ["distill.losses.0.attn: unknown key", 'did you mean "at"?', "rkd_angle"]),
        ("{kd: {temprature: 3}}", ["distill.losses.0.kd.temprature: unknown key", 'did you mean "temperature"?']),
        ("{kd: {layers: {student: a, teacher: b}}}", ["distill.losses.0.kd.layers: unknown key"]),
        ("{kd: {temperature: 0}}", ["distill.losses.0.kd.temperature: 0 is not allowed: must be greater than 0"]),
        ("{kd: {temperature: hot}}", ['temperature: "hot" is not allowed: must be a number']),
        ("{kd: {direction: backward}}", ['must be "forward", "reverse" or "js"']),
        ("{at: {mode: pap}}", ["distill.losses.0.at.mode", 'did you mean "paper"?']),
        ("{at: {layers: {student: a}}}", ["distill.losses.0.at.layers.teacher: required, but missing"]),
        ("{mmd: {bandwidths: [1, two]}}", ['mmd.bandwidths.1: "two" is not allowed: must be a number']),
        ("{kd: {weight: -1}}", ["distill.losses.0.kd.weight: -1 is not allowed: must be at least 0"]),
        ("{kd: {schedule: linear}}", ['must be "constant", "warmup" or "cosine"']),
        ("{kd: {}, dkd: {}}", ["distill.losses.0: a term is one loss with its options"]),
        ("{}", ["distill.losses.0: a term is one loss with its options"]),
        ("{kd: 4}", ["distill.losses.0.kd: 4 is not allowed: must be a mapping"]),
        ("4", ["distill.losses.0: 4 is not allowed: must be a mapping"]),
    ],
)
def test_what_is_wrong_with_a_term_is_told_with_its_line(tmp_path, written, told):
    (tmp_path / "mine.yaml").write_text(f"{RECIPE}    - {written}\n")
    with pytest.raises(DocumentError) as error:
        Recipe.load(str(tmp_path / "mine.yaml"))
    assert f"mine.yaml:7: {told[0] if told[0].startswith('distill') else 'distill.losses.0'}" in str(error.value)
    assert [part for part in told if part not in str(error.value)] == []
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"losses": ["kd"], "alpha": 0.5}, "temperature and alpha are the short form"),
        ({"losses": ["kd"], "temperature": 2}, "temperature and alpha are the short form"),
        ({"labels": 0.5}, "labels goes with losses"),
        ({"losses": [], "labels": 0}, "there is nothing to learn from"),
        ({"fusion": "weighted"}, "fusion: weighted and shares: {teacher: part} go together"),
        ({"shares": {"a": 1}}, "fusion: weighted and shares: {teacher: part} go together"),
        ({"fusion": "median"}, 'must be "mean", "weighted"'),
        ({"temperature": 0}, "distill.temperature: 0 is not allowed: must be greater than 0"),
        ({"losses": "kd"}, "must be a list"),
    ],
)
def test_what_a_distill_block_may_not_say(block, told):
    with pytest.raises(DocumentError) as error:
        Recipe.of(**tiny(distill=block))
    assert told in str(error.value)


def test_a_term_is_not_changed_afterwards():
    one = One.model_validate({"kd": {}})
    with pytest.raises(ValueError, match="frozen"):
        one.term().weighting.weight = 3
    assert losses()["kd"] is losses()["kd"]
