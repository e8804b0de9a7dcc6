"""Each point of a budget is judged by its own limits on its own variants; the run by all of them."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from edgekd.errors import EdgekdError
from edgekd.report import budget, build, html, terminal
from tests.report.synthetic import BASELINE, CHAIN, INT8, PRUNED

NETWORKS = {
    **{name: CHAIN[name] for name in ("teacher", "student")},
    "small": PRUNED, "small-int8": INT8, "baseline-small": replace(BASELINE, latency_us=300.0),
    "near": replace(PRUNED, latency_us=500.0, wrong={"test": 11, "validation": 10}),
    "baseline-near": replace(BASELINE, latency_us=500.0),
}  # fmt: skip
FINALIST = {
    "widths": {"stem": 8}, "blocks": ["one"], "how": "descent", "harm": 0.5, "predicted": {"cpu": {"float": 3.2}},
    "measured": {"cpu": {"float": 3.1}}, "validation": 0.97, "missed": None,
}  # fmt: skip
MODEL = {"mape": 0.053, "within_10": 0.9, "spearman": 0.987, "networks": 100}


def point(**changes):
    return {
        "devices": ["cpu"], "limits": {"min_speedup": 3, "max_drop_pp": 1.2}, "refused": None, "variants": ["small"],
        "prune": {
            "widths": {"stem": 8}, "blocks": ["one"], "importance": "distill_taylor", "epochs": 3, "learning_rate": 0.1
        },
        "predicted": {"cpu": {"float": 3.2, "int8": 5.1}}, "finalists": [FINALIST], **changes,
    }  # fmt: skip


POINTS = {"small": point(), "near": point(limits={"min_speedup": 1.5, "max_drop_pp": 0.2})}


def described(points):
    variants = {}
    for name, fake in NETWORKS.items():
        of = next((one for one in points if one in name), None)
        variants[name] = {"parameters": fake.parameters, "macs": fake.macs, "role": fake.role or "candidate"}
        variants[name] |= {"point": of} if of else {}
    return {"variants": variants, "budget": {"points": points, "latency_model": {"cpu": {"float": MODEL}}}}


@pytest.fixture
def report(make_run):
    return build.write(make_run(NETWORKS, run=described(POINTS)))


def test_each_point_has_a_verdict_of_its_own(report):
    device = report["devices"]["cpu"]
    assert list(device["points"]) == ["small", "near"]
    small, near = device["points"].values()
    assert (small["status"], small["recommended"]) == ("passed", "small-int8")
    assert (near["status"], near["recommended"]) == ("passed", "near")
    assert [gate["name"] for gate in near["gates"]] == ["min_speedup", "max_drop_pp"]
    assert {one["name"] for one in small["candidates"]} == {"small", "small-int8"}  # no baseline, no other point
    assert (device["verdict"]["status"], device["verdict"]["recommended"]) == ("passed", "small-int8")
    assert report["status"] == "passed"
    assert build.exit_code(report) == 0


def test_a_point_that_fails_fails_the_run_and_says_why_it_was_refused(make_run):
    points = copy.deepcopy(POINTS)
    points["near"] |= {"limits": {"min_speedup": 50}, "refused": "the smallest is too slow"}
    report = build.write(make_run(NETWORKS, run=described(points)))
    device = report["devices"]["cpu"]
    assert device["points"]["small"]["status"] == "passed"
    assert device["points"]["near"]["status"] == "failed"
    assert device["points"]["near"]["best"] == "near"
    assert device["points"]["near"]["why"] == "refused: the smallest is too slow"
    assert device["verdict"]["status"] == "failed"
    assert build.exit_code(report) == 1


def test_what_the_teacher_is_worth_is_told_of_each_point(report):
    gains = report["devices"]["cpu"]["point_gains_pp"]
    assert gains["small"]["estimate"] == pytest.approx(100 * (20 - 14) / 1000)
    assert gains["near"]["estimate"] == pytest.approx(100 * (20 - 11) / 1000)
    assert report["devices"]["cpu"]["distillation_gain_pp"] is None  # no baseline of the student


def test_points_are_not_steps_of_each_other(report):
    device = report["devices"]["cpu"]
    assert device["variants"]["small-int8"]["float_counterpart"] == "small"
    page = html.render(report)
    assert "made from small" not in page.replace("small-int8", "")


def test_the_table_says_what_was_asked_predicted_and_measured(report):
    small, near = budget.rows(report)
    assert (small["point"], small["device"], small["limits"]) == ("small", "cpu", "min_speedup 3, max_drop_pp 1.2")
    assert small["predicted"] == 5.1
    assert small["measured"] == pytest.approx(5.0, rel=0.1)
    assert small["drop_pp"] == pytest.approx(0.5)  # on the test split; on validation it was 1
    assert near["variant"] == "near"


def test_a_point_is_written_as_an_ordinary_recipe():
    line = "prune: {widths: {stem: 8}, blocks: [one], importance: distill_taylor, epochs: 3, learning_rate: 0.1}"
    assert budget.recipe_line(point()) == line


def test_page_and_terminal_show_every_point(report):
    page = html.render(report)
    for text in (
        "cpu · small",
        "cpu · near",
        'data-chart="front"',
        "min_speedup 3, max_drop_pp 1.2",
        "5.1",
        "off by 5.3 %",
    ):
        assert text in page
    console = Console(file=io.StringIO(), width=100)
    terminal.render(report, console)
    shown = console.file.getvalue()
    assert "PASSED  cpu · small  use small-int8" in shown
    assert "PASSED  cpu · near  use near" in shown
    assert "small, as a recipe: prune: {widths: {stem: 8}" in shown


def test_devices_that_no_point_is_for_are_judged_as_ever(make_run):
    points = {"small": point()}
    report = build.write(make_run(NETWORKS, devices=("cpu", "box"), run=described(points)))
    assert report["devices"]["box"]["points"] == {}
    assert report["devices"]["box"]["verdict"]["status"] == "passed"


@pytest.mark.parametrize(
    "broken", [{"points": {"small": {}}}, {"points": []}, {"points": {"small": point(limits=3)}}, []]
)
def test_a_budget_that_was_tampered_with_is_one_clear_error(make_run, broken):
    folder = make_run(NETWORKS)
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "budget": broken}))
    with pytest.raises(EdgekdError, match=r"run.json: budget"):
        build.build(folder)
