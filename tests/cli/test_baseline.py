"""`edgekd baseline`, `edgekd compare` and what `edgekd report` writes for continuous integration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report.synthetic import CHAIN, INT8, write_run

Command = Callable[..., object]
SHORT = {"rounds": 12, "processes": 3}


@pytest.fixture
def runs(workplace: Path) -> Path:
    """Two runs of equal networks, and one whose int8 file is worse in everything."""
    worse = {**CHAIN, "int8": replace(INT8, wrong={"test": 60, "validation": 30}, latency_us=300, size=40_000)}
    write_run(workplace / "old", **SHORT)
    write_run(workplace / "same", seed=1, **SHORT)
    write_run(workplace / "worse", worse, seed=2, **SHORT)
    return workplace


def test_written_then_checked_green_then_red(edgekd, runs):
    told = edgekd("baseline", "write", "old", "baseline.json")
    assert (told.code, told.out) == (0, "baseline: baseline.json, 14 figures of 20300101-000000-digits-abcd\n")
    assert json.loads((runs / "baseline.json").read_text())["baseline"] == 1
    green = edgekd("baseline", "check", "same", "baseline.json")
    assert (green.code, green.out.splitlines()[-1]) == (0, "PASSED")
    options = ("--junit", "j.xml", "--markdown", "s.md")
    red = edgekd("baseline", "check", "worse", "baseline.json", *options)
    assert (red.code, red.out.splitlines()[-2]) == (1, "FAILED")
    assert red.out.splitlines()[-1].endswith("edgekd baseline write worse baseline.json")
    failed = [line.split()[1:3] for line in red.out.splitlines() if line.startswith("✗")]
    assert failed == [["int8", figure] for figure in ("accuracy", "agreement", "size", "speed-up")]
    suite = ElementTree.parse(runs / "j.xml").getroot()
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["errors"]) == ("14", "4", "0")
    failure = suite.find("testsuite/testcase[@name='int8: accuracy']/failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("98.50 % -> 94.00 %: 4.50 pp worse [")
    assert (runs / "s.md").read_text().startswith("## ❌ edgekd baseline check\n\n10 passed, 4 failed\n")


def test_a_tolerance_lets_a_change_pass_and_lives_on_in_the_file(edgekd, runs):
    wide = [f"--tolerance={figure}=300" for figure in ("accuracy", "agreement", "size", "speedup")]
    edgekd("baseline", "write", "old", "baseline.json")
    assert edgekd("baseline", "check", "worse", "baseline.json", *wide).code == 0
    assert edgekd("baseline", "check", "worse", "baseline.json", *wide[1:]).code == 1
    edgekd("baseline", "write", "old", "baseline.json", *wide)
    assert edgekd("baseline", "check", "worse", "baseline.json").code == 0
    told = edgekd("baseline", "write", "worse", "baseline.json")  # what changed is shown, and the tolerances are kept
    assert "~ int8 accuracy 98.50 % 94.00 % 4.50 pp worse" in " ".join(told.out.split())
    assert json.loads((runs / "baseline.json").read_text())["tolerances"]["speedup"] == 300


def test_check_as_json_says_everything(edgekd, runs):
    edgekd("baseline", "write", "old", "baseline.json")
    told = edgekd("baseline", "check", "worse", "baseline.json", "--json")
    content = json.loads(told.out)
    assert (told.code, content["exit_code"], content["confidence"]) == (1, 1, pytest.approx(1 - 0.05 / 10))
    (size,) = [one for one in content["changes"] if (one["variant"], one["figure"]) == ("int8", "size")]
    assert (size["outcome"], size["worsening"], size["before"]) == ("failed", pytest.approx(100 / 3), 30_000)


def test_a_pending_device_is_exit_code_4_and_another_one_can_be_left_out(edgekd, runs):
    write_run(runs / "two", devices=("cpu", "jetson"), **SHORT)
    pending = {"jetson": {"kind": "pending", "message": "the bundle waits"}}
    write_run(runs / "waiting", devices=("cpu", "jetson"), errors=pending, **SHORT)
    edgekd("baseline", "write", "two", "baseline.json")
    told = edgekd("baseline", "check", "waiting", "baseline.json")
    assert told.code == 4
    assert "pending: the bundle waits" in told.out
    assert edgekd("baseline", "check", "waiting", "baseline.json", "--device", "cpu").code == 0
    gone = edgekd("baseline", "check", "same", "baseline.json")
    assert gone.code == 1
    assert "the run did not measure on it; it has cpu" in gone.out
    assert edgekd("baseline", "check", "same", "baseline.json", "--device", "tpu").code == 2
    refused = edgekd("baseline", "write", "waiting", "other.json")
    assert refused.code == 2
    assert "jetson was not measured in this run" in refused.err
    assert not (runs / "other.json").exists()


def test_another_recipe_is_wrong_input_that_says_what_to_do(edgekd, runs):
    write_run(runs / "mnist", run={"recipe": "mnist"}, **SHORT)
    edgekd("baseline", "write", "old", "baseline.json")
    told = edgekd("baseline", "check", "mnist", "baseline.json")
    assert told.code == 2
    assert "recipe: digits, now mnist" in told.err
    assert "edgekd baseline write mnist baseline.json" in told.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("baseline", "check", "old", "gone.json"), "there is no such baseline"),
        (("baseline", "check", "gone", "package.json"), "package.json is no baseline"),
        (("baseline", "write", "gone", "b.json"), "gone is not a run"),
        (("baseline", "write", "old", "package.json"), "package.json is no baseline"),
        (("baseline", "write", "old", "gone/b.json"), "FILE gone/b.json: there is no folder gone"),
        (
            ("baseline", "write", "old", "b.json", "--tolerance", "speed=1"),
            "--tolerance speed=1: must be FIGURE=AMOUNT",
        ),
        (("report", "old", "--junit", "gone/j.xml"), "--junit gone/j.xml: there is no folder gone"),
        (("report", "old", "--markdown", "old"), "--markdown old is a folder"),
        (("compare", "old"), "name at least two runs"),
        (("compare", "old", "./old"), "a run is named twice"),
        (("compare", "old", "same", "--plot", "p.gif"), "must end in .svg, .png, .pdf"),
    ],
)
def test_wrong_input_is_told_before_any_work(edgekd, runs, arguments, message):
    (runs / "package.json").write_text("{}")
    before = sorted(runs.rglob("*"))
    told = edgekd(*arguments)
    assert told.code == 2
    assert message in told.err
    assert sorted(runs.rglob("*")) == before


def test_compare_says_what_changed_and_what_is_noise(edgekd, runs):
    told = edgekd("compare", "old", "same", "worse", "--plot", "p.svg", "--markdown", "c.md")
    assert told.code == 0
    same, worse = told.out.split("worse against old")
    assert same.startswith("same against old")
    assert "✗" not in same
    assert ".  student  speed-up" in same
    assert worse.count("✗") == 4
    assert "plot: p.svg" in worse
    assert (runs / "p.svg").read_text().count("speed-up: change in %") == 1
    page = (runs / "c.md").read_text()
    assert page.startswith("## same against old\n")
    assert "| `✗` | int8 | size | 30.0 kB | 40.0 kB | 33.3 % larger | worse by more than is allowed |" in page
    content = json.loads(edgekd("compare", "old", "worse", "--json").out)
    assert content["first"] == "old"
    assert {one["outcome"] for one in content["runs"]["worse"]["changes"]} == {"same", "noise", "failed"}


def test_compare_of_runs_on_other_data_compares_no_accuracy(edgekd, runs):
    write_run(runs / "other", samples={"test": 500, "validation": 500}, **SHORT)
    told = edgekd("compare", "old", "other")
    assert told.code == 0
    assert "int8 accuracy: 98.50 % -> 97.00 %, not compared: the runs are not of one task on the same data" in told.out
    assert "! test split: 1000 labels" in told.out


def test_report_writes_junit_and_markdown(edgekd, runs):
    write_run(runs / "gated", gates={"min_speedup": 20}, **SHORT)
    told = edgekd("report", "gated", "--junit", "j.xml", "--markdown", "s.md")
    assert told.code == 1
    root = ElementTree.parse(runs / "j.xml").getroot()
    assert (root.attrib["name"], root.attrib["failures"]) == ("edgekd report", "1")
    assert "| variant |  | Accuracy |" in (runs / "s.md").read_text()
