"""A whole search with real networks: its trials, what is left of it, and what it says of the best one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekd import Recipe
from edgekd.tuning import outcome, search

SPACE = {
    "distill.temperature": [1, 4],
    "student.learning_rate": {"low": 1.0e-4, "high": 1.0e-1, "log": True},
    "student": [{"model": "mlp", "widths": [16], "batch_size": 8}, {"model": "mlp", "widths": [48], "batch_size": 8}],
    "teacher": [
        {"model": "mlp", "widths": [32], "epochs": 1, "batch_size": 8}, {"model": "mlp", "widths": [64], "epochs": 2},
    ],
}  # fmt: skip
SEARCH = {"space": SPACE, "trials": 6, "epochs": 3, "startup": 2, "seeds": 2}


@pytest.fixture
def found(write_recipe, workplace) -> tuple[search.Found, Path]:
    path = write_recipe(search=SEARCH)
    return search.run(str(path), out=workplace / "out", store=workplace / "store"), path


def _artifacts(store: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in (store / "artifacts").iterdir())


def test_a_search_and_what_is_left_of_it(found, workplace):
    done, path = found
    results = json.loads((done.path / "search.json").read_text())
    assert results == json.loads(json.dumps(done.results))
    rows = results["trials"]
    assert [row["number"] for row in rows] == list(range(6))
    assert rows[0]["as_it_is"]
    assert rows[0]["values"] == {  # the teacher's and the student's blocks as the recipe has them
        "distill.temperature": 4, "student.learning_rate": 1e-3, "student": SPACE["student"][0],
        "teacher": SPACE["teacher"][0],
    }  # fmt: skip
    trained = [row for row in rows if row["state"] == "done"]
    for row in trained:
        assert row["validation"] == max(row["epochs"].values())
        assert list(row["epochs"]) == ["1", "2", "3"]
    for row in [row for row in rows if row["state"] == "stopped"]:
        assert row["validation"] is None
        assert f"stopped after epoch {len(row['epochs'])}" in row["reason"]
    assert results["counts"] == {"done": len(trained), "stopped": 6 - len(trained), "failed": 0}
    best = rows[results["best"]]
    assert best["validation"] == max(row["validation"] for row in trained)
    assert {path.name for path in done.path.iterdir()} == {
        "search.json", "best.yaml", "history.svg", "slices.svg", "log.jsonl",
    }  # fmt: skip
    assert not list((workplace / "store" / "partial").iterdir())
    assert _artifacts(workplace / "store").count("teacher") == len(
        {json.dumps(row["values"]["teacher"]) for row in rows}
    )
    found_best = Recipe.load(str(done.path / "best.yaml"))
    assert found_best.search is None
    values = sorted(best["values"].items(), key=lambda item: item[0].count("."))
    changes = [] if best["as_it_is"] else [f"{place}={json.dumps(value)}" for place, value in values]
    expected = Recipe.load(str(path), changes)
    assert found_best == expected.model_copy(update={"search": None})


def test_a_second_call_goes_on_and_trains_nothing_again(found, workplace, edgekd, monkeypatch):
    _, path = found
    before = _artifacts(workplace / "store")
    monkeypatch.setenv("EDGEKD_HOME", str(workplace / "store"))
    outcome = edgekd("search", path, "--out", "again", "--json")
    assert (outcome.code, _artifacts(workplace / "store")) == (0, before)
    told = json.loads(outcome.out)
    assert [row["number"] for row in told["trials"]] == list(range(6))
    outcome = edgekd("search", path, "--out", "again", "--trials", "7")
    assert outcome.code == 0
    assert len(json.loads((workplace / "again" / "search.json").read_text())["trials"]) == 7
    assert "7 trials of 3 epochs" in outcome.out
    assert "what matters: " in outcome.out


def test_students_that_are_too_large_are_not_trained(write_recipe, workplace):
    path = write_recipe(search={"space": {"student.widths": [[16], [64]]}, "trials": 5, "epochs": 1, "seeds": 0,
                                "max_parameters": 1000, "pruner": False})  # fmt: skip
    results = search.run(str(path), out=workplace / "out", store=workplace / "store").results
    large = [row for row in results["trials"] if row["values"]["student.widths"] == [64]]
    assert large
    for row in large:
        assert row["state"] == "stopped"
        assert row["reason"] == "not trained: 2,563 parameters are more than search.max_parameters: 1,000"
    done = [row for row in results["trials"] if row["state"] == "done"]
    assert {row["parameters"] for row in done} == {36 * 16 + 16 + 16 * 3 + 3}
    assert results["comparison"]["text"] == "no trial is better than the recipe as it is."


def test_values_that_break_the_training_are_told_and_the_search_goes_on(write_recipe, workplace):
    path = write_recipe(search={"space": {"distill.losses": [["kd"], [{"kd": {"weight": 1.0e39}}]]}, "trials": 4,
                                "epochs": 1, "seeds": 0}, distill={"losses": ["kd"]})  # fmt: skip
    results = search.run(str(path), out=workplace / "out", store=workplace / "store").results
    failed = [row for row in results["trials"] if row["state"] == "failed"]
    assert failed
    assert all("the term kd became" in row["reason"] for row in failed)
    assert results["counts"]["done"] + len(failed) == 4


TOLD_WITH_THE_RECIPE: list[tuple[dict[str, Any], str]] = [
    ({"space": {"studnt.width": [1]}}, "there is no 'studnt' in a recipe"),
    ({"space": {"quantize.samples": [1]}}, "quantize does not change"),
    ({"space": {"distill.alpha": []}}, "[] is not allowed"),
    ({"space": {"distill.alpha": {"low": 0.5, "high": 0.5}}}, "low 0.5 must be less than high 0.5"),
    ({"space": {"student.widths": [[8], [0]]}}, "student.widths=[0]: student.widths.0: 0 is not allowed"),
]
WRONG: list[tuple[dict[str, Any], list[str], str]] = [
    *((block, [], told) for block, told in TOLD_WITH_THE_RECIPE),
    ({"space": {"distill": [{"losses": ["attention"]}]}}, [], "search.space: distill={losses: [attention]}: "),
    ({"space": {"distill.alpha": [0.1]}}, ["--storage", "sqlite:///no/where.db"], "unable to open database file"),
    ({"space": {"distill.alpha": [0.1]}}, ["--storage", "postgresql://me:hunter2@127.0.0.1:1/x"], "://***@127.0.0.1"),
    ({"space": {"distill.alpha": [0.1]}}, ["--trials", "0"], "0 is not in the range"),
    ({"space": {"distill.alpha": [0.1]}}, ["--workers", "0"], "0 is not in the range"),
    ({"space": {"distill.alpha": [0.1]}}, ["--set", "distill=false", "--set", "student=null"], "trains no student"),
]  # fmt: skip


@pytest.mark.parametrize(("block", "arguments", "told"), WRONG)
def test_a_wrong_search_is_refused_before_any_work(block, arguments, told, edgekd, workplace, write_recipe):
    outcome = edgekd("search", write_recipe(search=block), *arguments)
    assert outcome.code == 2
    assert told in outcome.text
    assert "hunter2" not in outcome.text
    assert not list((workplace.parent / "store").glob("artifacts/*"))


@pytest.mark.parametrize(("block", "told"), TOLD_WITH_THE_RECIPE)
def test_a_wrong_search_is_told_with_the_recipe(block, told, edgekd, write_recipe):
    outcome = edgekd("recipe", "check", write_recipe(search=block))
    assert outcome.code == 2
    assert told in outcome.err


def test_a_recipe_without_a_search_says_what_one_looks_like(edgekd):
    outcome = edgekd("search", "digits")
    assert outcome.code == 2
    example = outcome.err[outcome.err.index("search: {") :]
    assert Recipe.load("digits", [f"search={json.dumps(yaml.safe_load(example)['search'])}"]).search.trials == 30


def test_a_missing_optuna_is_named_by_its_extra(edgekd, write_recipe, monkeypatch):
    monkeypatch.setattr("edgekd.cli.search.installed", lambda _: False)
    outcome = edgekd("search", write_recipe(search=SEARCH))
    assert outcome.code == 2
    assert "pip install 'edgekd[search]'" in outcome.err


def test_a_password_on_the_command_line_is_not_written_down():
    url = "postgresql://me:hunter2@host/db"
    assert outcome._without(["edgekd", "search", "--storage", url, f"--storage={url}"], url) == [
        "edgekd", "search", "--storage", "postgresql+psycopg://me:***@host/db",
        "--storage=postgresql+psycopg://me:***@host/db",
    ]  # fmt: skip
