"""A budget from its block in a recipe to its points in the report."""

from __future__ import annotations

import json

import pytest

from edgekd import Recipe, checks, log, making, pipeline, run
from edgekd.device import Device
from edgekd.dispatch.placing import Place
from edgekd.errors import UsageError
from edgekd.options import Gates
from edgekd.search import budget
from tests.tiny import SHORT, short_timings, tiny

LIMITS = {"min_speedup": 1.2, "max_drop_pp": 99}


def recipe(**changes):
    return Recipe.of(**tiny(**{"prune": False, "quantize": False, **changes}))


# ---- the block


def test_the_short_form_has_one_point_that_is_called_found():
    options = recipe(budget={"device": "cpu", **LIMITS}).options("budget")
    assert options.device == ("cpu",)
    assert options.points == {"found": Gates(min_speedup=1.2, max_drop_pp=99)}
    resolved = recipe(budget={"device": "cpu", **LIMITS}).resolved()
    assert Recipe.of(**{key: value for key, value in resolved.items() if key != "version"}).options("budget") == options


@pytest.mark.parametrize(("asked", "short"), [({}, 5), ({"epochs": 7}, 4), ({"epochs": 7, "trial_epochs": 2}, 2)])
def test_a_short_training_is_half_of_the_whole_one_unless_the_recipe_says_otherwise(asked, short):
    assert recipe(budget={**LIMITS, **asked}).options("budget").short == short


def test_with_a_budget_nothing_is_pruned_that_is_not_named():
    content = {key: value for key, value in tiny(budget=LIMITS).items() if key != "prune"}
    assert Recipe.of(**content).options("prune") is None
    assert Recipe.of(**content, prune={"ratio": 0.5}).options("prune").ratio == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"budget": {"device": "cpu"}},
            "found: no limit says what the device must do; set at least one of min_speedup",
        ),
        ({"budget": {"max_drop_pp": 1}}, "found: no limit says what the device must do"),
        ({"budget": {"points": {}}}, "points has no point"),
        ({"budget": {"points": {"myteacher": LIMITS}}}, "points.myteacher: other variants have such names"),
        ({"budget": {"points": {"a-b": LIMITS}}}, "budget.points"),
        ({"budget": {"points": {"a": LIMITS}, "min_speedup": 2}}, "min_speedup stands beside points"),
        ({"budget": {"min_speedup": 2, "min_accuracy": 1.5}}, r"min_accuracy: 1.5 is not allowed: must be at most 1"),
        ({"budget": {"min_speedup": -1}}, "min_speedup: -1"),
        ({"budget": {"min_speedup": 2, "networks": 5}}, "budget.networks: 5 is not allowed: must be at least 20"),
        ({"budget": {"min_speedup": 2, "network": 50}}, 'unknown key; did you mean "networks"'),
        ({"budget": LIMITS, "distill": False}, "budget looks for a smaller student"),
        ({"budget": LIMITS, "gates": {"min_speedup": 2}}, "gates and budget: the points of a budget have limits"),
        ({"budget": LIMITS, "factorize": True}, "factorize and budget"),
    ],
)
def test_budgets_that_make_no_sense(changes, message):
    with pytest.raises(UsageError, match=message):
        recipe(**changes)


BOX = Device(version=1, backend="onnxruntime")


@pytest.mark.parametrize(
    ("device", "places", "processes", "message"),
    [
        (["cpx"], {"cpu": Place(BOX, "here")}, 1, "no device 'cpx' in this run; did you mean \"cpu\"? (it has cpu)"),
        (None, {"box": Place(BOX, "bundle", why="this machine is no box")}, 1, "measures on box again and again"),
        (None, {"cpu": Place(BOX, "here")}, 2, "start it without torchrun"),
    ],
)
def test_what_a_run_does_not_let_a_budget_do_is_told_before_any_work(device, places, processes, message):
    (problem,) = checks.budget_problems(recipe(budget={**LIMITS, "device": device}), places, processes)
    assert message in problem


def test_all_is_well_with_a_budget_on_the_runs_devices_and_without_one():
    places = {"cpu": Place(BOX, "here"), "box": Place(BOX, "bundle", why="it is not here")}
    assert list(checks.budget_problems(recipe(budget={**LIMITS, "device": "cpu"}), places, 1)) == []
    assert list(checks.budget_problems(recipe(), places, 2)) == []


# ---- from the search to the report


BUDGET = {
    "points": {"small": {"min_speedup": 1.5, "max_drop_pp": 99}},
    "networks": 20,
    "finalists": 1,
    "epochs": 1,
    "depth": 0,
}
OVERRIDES = [
    *SHORT, "data={source: digits, validation: 0.2, train_samples: 300, test_samples: 100}", "quantize=false",
    "teacher.width=24", "student.width=16", "teacher.epochs=1", "student.epochs=1", f"budget={json.dumps(BUDGET)}",
]  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Run the shipped recipe with a budget in a short form, on digits."""
    folder = tmp_path_factory.mktemp("budget")
    asked = Recipe.load("fashion-mnist-budget", OVERRIDES)
    with short_timings():
        return asked, run(asked, ["cpu"], out=folder / "run", store=folder / "store"), folder / "store"


def test_a_point_is_found_measured_and_judged(found):
    _, result, _ = found
    device, point = result.report["devices"]["cpu"], result.report["budget"]["points"]["small"]
    assert list(device["variants"]) == ["teacher", "student", "small", "baseline-small"]
    assert (point["devices"], point["limits"]) == (["cpu"], BUDGET["points"]["small"])
    assert {gate["name"] for gate in device["points"]["small"]["gates"]} == set(point["limits"])
    own, alone = device["variants"]["small"], device["variants"]["baseline-small"]
    assert (own["macs"], own["parameters"]) == (alone["macs"], alone["parameters"])
    assert own["macs"] < device["variants"]["teacher"]["macs"]
    assert (device["points"]["small"]["status"] == "passed") == (result.exit_code == 0)
    assert point["finalists"][0]["measured"]["cpu"]["float"] > 0
    assert result.report["budget"]["latency_model"]["cpu"]["float"]["networks"] == 20


def test_the_log_tells_when_it_measures_and_when_it_trains(found):
    _, result, _ = found
    lines = [json.loads(line) for line in (result.path / log.FILE).read_text().splitlines()]
    told = [line.get("step", line["event"]) for line in lines if line["event"] in ("start", "measuring", "measured")]
    first, last = told.index("measuring"), told.index("small/prune")
    assert told[first - 1].startswith("template[")
    assert "measuring" in told[last:-2]
    assert told[-2:] == ["measuring", "measured"]


def test_what_was_found_is_an_ordinary_recipe(found):
    _, result, store = found
    prune = {**result.report["budget"]["points"]["small"]["prune"], "batches": 8}
    again = Recipe.load("fashion-mnist-budget", [*OVERRIDES[:-1], "budget=null", f"prune={json.dumps(prune)}"])
    planned = pipeline.plan(pipeline.prepare(again, ["cpu"], store=store))
    made = {one.step.label: one.artifact for one in planned}
    rows = {row["name"]: row["artifact"] for row in result.report["stages"]}
    assert made["prune"].digest == rows["small/prune"]


def test_a_second_search_makes_nothing_again(found, tmp_path):
    asked, result, store = found
    told = []
    with short_timings():
        again = run(asked, ["cpu"], out=tmp_path / "run", store=store, show=making.Show(say=told.append))
    assert [line for line in told if " done in " in line and not line.startswith("measure[cpu]")] == []
    assert again.report["budget"] == result.report["budget"]


def test_a_plan_says_what_the_search_would_do(chain):
    planned = budget.plan(pipeline.prepare(recipe(budget=LIMITS), ["cpu"], store=chain.store))
    assert [row["step"] for row in planned] == ["budget[found]"]
    assert "looks for max_drop_pp 99, min_speedup 1.2 on cpu" in planned[0]["reason"]
    assert budget.plan(pipeline.prepare(recipe(), ["cpu"], store=chain.store)) == []


def test_the_run_of_a_recipe_without_a_budget_is_that_of_the_pipeline(chain, unmeasured, tmp_path):
    result = run(chain.recipe, ["cpu"], out=tmp_path / "run", store=chain.store)
    assert len(unmeasured) == 1
    assert result.report["budget"] is None
    assert json.loads((tmp_path / "run" / "run.json").read_text()).get("budget") is None
