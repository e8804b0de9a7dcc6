"""Recipes: what ships, what is read, what is refused, what is printed."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import yaml
from tiny import ROOT, tiny

from edgekd import Recipe, recipe
from edgekd.document import DocumentError
from edgekd.errors import UsageError
from edgekd.models import Description, create, parameters
from edgekd.stages import declared

PIPELINES = sorted((ROOT / "pipelines").rglob("*.yaml"))


def test_what_ships_is_found_by_its_name():
    assert len(PIPELINES) >= 3
    assert list(recipe.shipped_recipes().values()) == PIPELINES
    assert recipe.DEFAULT in recipe.shipped_recipes()


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid_and_has_a_manual(path):
    loaded = Recipe.load(path.stem)
    assert loaded.name == path.stem
    assert loaded == Recipe.load(str(path))
    text = recipe.manual(path)
    for word in ("Does:", "Needs:", "Takes:", "Gives:", f"edgekd pipeline {path.stem}"):
        assert word in text
    assert len(text.splitlines()[0]) < 120
    assert loaded.gates.model_dump(exclude_none=True), "a shipped recipe can fail"


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_what_resolved_prints_is_the_same_recipe(path):
    loaded = Recipe.load(path.stem)
    printed = yaml.safe_dump(loaded.resolved())
    assert Recipe.of(**{key: value for key, value in yaml.safe_load(printed).items() if key != "version"}) == loaded
    assert set(loaded.resolved()) >= {"version", "data", "task", "seed", "teacher", "student", "gates", *declared()}


def test_the_mnist_networks_have_exactly_the_promised_parameters():
    loaded = Recipe.load("mnist-mlp")
    for network, count in ((loaded.teacher, 535_818), (loaded.student, 109_386)):
        sizes = [28 * 28, *network.widths, 10]
        assert sum(inputs * outputs + outputs for inputs, outputs in pairwise(sizes)) == count
        arguments = {"input_shape": [1, 28, 28], "classes": 10, **network.arguments()}
        assert parameters(create(Description(f"edgekd.models.{network.model}:build", arguments, (1, 28, 28)))) == count


def test_a_stage_is_switched_off_by_false_and_has_its_defaults_by_true():
    loaded = Recipe.of(**tiny(prune=False, validate=True))
    assert loaded.options("prune") is None
    assert loaded.options("validate") == declared()["validate"].options()
    assert loaded.resolved()["prune"] is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"student": None}, "student is missing: distillation needs one (or distill: false)"),
        ({"export": False}, "export and measure cannot be switched off"),
        ({"measure": False}, "export and measure cannot be switched off"),
        ({"teacher": False}, "teacher: false is not allowed: must be a mapping"),
        ({"prune": 3}, "prune: 3 is not allowed: must be a mapping"),
        ({"seed": True}, "seed: true is not allowed: must be a whole number"),
        ({"seed": -1}, "seed: -1 is not allowed: must be at least 0"),
        ({"gates": {"min_accuracy": 98}}, "gates.min_accuracy: 98 is not allowed: must be at most 1"),
        ({"compute": "gpu"}, 'compute: "gpu" is not allowed: must be "auto", "cpu" or "cuda"'),
        ({"studnet": {}}, 'studnet: unknown key; did you mean "student"?'),
    ],
)
def test_what_a_recipe_may_not_say(change, told):
    with pytest.raises(DocumentError) as error:
        Recipe.of(**tiny(**change))
    assert told in str(error.value)


def test_an_override_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"version": 1, **tiny()}))
    assert Recipe.load(str(path)).name == "tiny"
    changed = Recipe.load(str(path), ["name=other", "student.width=8", "prune=false", "gates.min_speedup=2"])
    assert (changed.name, changed.student.width, changed.options("prune")) == ("other", 8, None)
    assert changed.gates.min_speedup == 2
    assert changed.teacher == Recipe.load(str(path)).teacher


def test_a_recipe_without_a_name_has_its_files(tmp_path):
    path = tmp_path / "my-box.yaml"
    path.write_text("version: 1\ndata: digits\nteacher: {model: mlp}\nstudent: {model: mlp}\n")
    assert Recipe.load(str(path)).name == "my-box"


def test_networks_train_ten_epochs_unless_weights_are_given(tmp_path):
    loaded = Recipe.of(data="digits", teacher={"model": "mlp", "weights": tmp_path / "w.pt"}, student={"model": "mlp"})
    assert (loaded.teacher.epochs, loaded.student.epochs) == (None, 10)


def test_a_copy_is_the_file_and_nothing_is_overwritten(tmp_path):
    source = recipe.find("digits")
    assert recipe.copy("digits", tmp_path) == tmp_path / "digits.yaml"
    assert recipe.copy("digits", tmp_path / "mine.yaml") == tmp_path / "mine.yaml"
    assert (tmp_path / "mine.yaml").read_bytes() == source.read_bytes()
    (tmp_path / "mine.yaml").write_text("version: 1\n")
    with pytest.raises(UsageError, match="is there already"):
        recipe.copy("digits", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == "version: 1\n"
    with pytest.raises(UsageError, match="is no folder; make it first"):
        recipe.copy("digits", tmp_path / "gone" / "mine.yaml")


def test_a_path_wins_over_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.yaml").write_text("version: 1\n")
    assert recipe.find("digits.yaml").resolve() == tmp_path / "digits.yaml"
    assert recipe.find("digits") == recipe.shipped_recipes()["digits"]


def test_a_users_module_beside_the_recipe_is_found_from_elsewhere(workplace, module, edgekd, monkeypatch, tmp_path):
    name = module("import numpy as np\ndef splits():\n    raise RuntimeError('found')\n")
    (workplace / "mine.yaml").write_text(
        f"version: 1\ndata: '{name}:splits'\nteacher: {{model: mlp}}\nstudent: {{model: mlp}}\n"
    )
    monkeypatch.chdir(tmp_path)
    outcome = edgekd("pipeline", workplace / "mine.yaml", "--plan")
    assert outcome.code == 3
    assert "RuntimeError: found" in outcome.err


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Recipe.of(**tiny()).seed = 1
