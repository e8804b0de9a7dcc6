"""The three options of every command that works, and what goes where."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import click
import pytest
from tiny import tiny

from edgekd import cli
from edgekd.cli import display, screen
from edgekd.cli.screen import Screen

WORKING = ["pipeline", "study", "bench", "explain", "report", "device probe", "recipe check", "doctor"]
WORKING += ["baseline write", "baseline check", "compare", "search", "validate"]
READING = ["baseline show", "recipe show", "recipe copy", "device show"]
"""These print what is in a file, or copy one."""


def _commands() -> dict[str, click.Command]:
    found = {name: importlib.import_module(f"edgekd.cli.{name}").command for name in cli.COMMANDS}
    groups = {name: one for name, one in found.items() if isinstance(one, click.Group)}
    inner = {f"{name} {sub}": one for name, group in groups.items() for sub, one in group.commands.items()}
    return {**{name: one for name, one in found.items() if name not in groups}, **inner}


def _flags(command: click.Command) -> set[str]:
    """The options that need no value."""
    options = (one for one in command.params if isinstance(one, click.Option))
    return {name for one in options if one.is_flag or one.flag_value == screen.STDOUT for name in one.opts}


@pytest.mark.parametrize("name", WORKING)
def test_a_command_that_works_has_all_three(name):
    assert {"-q", "--quiet", "-v", "--verbose", "--json"} <= _flags(_commands()[name])


def test_every_command_gives_json_but_those_that_print_a_file():
    without = [name for name, one in _commands().items() if not any("--json" in each.opts for each in one.params)]
    assert without == [name for name in _commands() if name in READING]


def test_quiet_and_verbose_exclude_each_other(edgekd):
    outcome = edgekd("report", "here", "-q", "-v")
    assert outcome.code == 2
    assert "error[E-USAGE]: --quiet and --verbose exclude each other" in outcome.err


# ---- a run


@pytest.fixture
def recipe(store, unmeasured, monkeypatch, workplace):
    """Return the tiny recipe, all of whose stages are in the store, and whose measurement fails at once."""
    monkeypatch.setenv("EDGEKD_HOME", str(store))
    (workplace / "tiny.yaml").write_text(json.dumps({"version": 1, **tiny()}))
    return "tiny.yaml"


def test_the_result_is_on_standard_output_and_progress_on_standard_error(edgekd, recipe, store):
    outcome = edgekd("pipeline", recipe, "--out", "run")
    assert "report: run/report.html" in outcome.out
    assert "NOT MEASURED" in outcome.out
    assert [line.split()[1] for line in outcome.err.splitlines()][:13] == ["cached"] * 13
    assert "cached" not in outcome.out
    assert "planned:" not in outcome.err
    events = [json.loads(line)["event"] for line in Path("run/log.jsonl").read_text().splitlines()]
    assert [events.count(one) for one in ("run", "planned", "step", "measured", "finished")] == [1, 13, 13, 1, 1]
    assert (events[0], events[-1]) == ("run", "finished")
    assert list((store / "logs").iterdir()) == []


def test_quiet_leaves_the_verdict(edgekd, recipe):
    outcome = edgekd("pipeline", recipe, "--out", "run", "--quiet")
    assert outcome.err == ""
    assert "NOT MEASURED" in outcome.out
    assert "report:" not in outcome.out
    assert edgekd("pipeline", recipe, "--plan", "-q").out == "13 of 14 steps are cached\n"


def test_verbose_says_why(edgekd, recipe):
    outcome = edgekd("pipeline", recipe, "--out", "run", "--verbose")
    assert outcome.err.count("  planned: step ") == 13
    assert "  step: step teacher, cached True, seconds " in outcome.err


def test_json_is_one_document(edgekd, recipe):
    outcome = edgekd("pipeline", recipe, "--out", "run", "--json")
    assert json.loads(outcome.out) == json.loads(Path("run/report.json").read_text())
    assert "cached" in outcome.err


def test_quiet_reports_explain_less(edgekd, chain):
    full, brief = edgekd("report", chain.path), edgekd("report", chain.path, "-q")
    assert brief.out
    assert brief.out in full.out.replace("\n\n", "\n", 1) or full.out.startswith(brief.out)
    assert len(brief.out.splitlines()) < len(full.out.splitlines()) / 2


def test_recipe_check_as_json_and_quiet(edgekd, workplace):
    (workplace / "wrong.yaml").write_text(
        "version: 1\ndata: digits\nteacher: {model: mlp, layers: 3}\ndistill: false\n"
    )
    found = edgekd("recipe", "check", "digits", "wrong.yaml", "--json")
    assert (found.code, found.err) == (2, "")
    content = json.loads(found.out)
    assert content["digits"] is None
    assert "layers: unknown key" in content["wrong.yaml"]["message"]
    quiet = edgekd("recipe", "check", "digits", "wrong.yaml", "-q")
    assert quiet.out == ""
    assert quiet.err.startswith("error[E-YAML]: 1 problem in wrong.yaml:\n  wrong.yaml:3: teacher.layers: unknown key")


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "code", "error", "told"),
    [
        (["pipeline", "digitz", "--json"], 2, "E-RECIPE", "no recipe 'digitz'"),
        (["pipeline", "--json", "--devize", "cpu"], 2, "E-USAGE", "No such option"),
        (["bench", "--json"], 2, "E-USAGE", "Missing argument"),
        (["device", "probe", "gpu", "--json"], 2, "E-PROFILE", "no device 'gpu'"),
        (["report", "nothing", "--json"], 2, "E-REPORT", "nothing"),
    ],
)
def test_an_error_is_one_document_too(edgekd, workplace, arguments, code, error, told):
    outcome = edgekd(*arguments)
    assert (outcome.code, outcome.err) == (code, "")
    content = json.loads(outcome.out)["error"]
    assert (content["code"], content["exit_code"], content["log"]) == (error, code, None)
    assert told in content["message"]


@pytest.mark.parametrize(
    ("error", "code", "name"), [(KeyboardInterrupt(), 130, "E-INTERRUPTED"), (OSError(28, "full", "/x"), 3, "E-DISK")]
)
def test_so_are_an_interruption_and_a_full_disk(edgekd, monkeypatch, error, code, name):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("edgekd.recipe.shipped_recipes", fail)
    outcome = edgekd("recipe", "list", "--json")
    content = json.loads(outcome.out)["error"]
    assert (outcome.code, content["exit_code"], content["code"]) == (code, code, name)
    assert edgekd("recipe", "show").code == code


def test_a_stage_that_fails_names_the_log_of_its_run(edgekd, write_recipe, tmp_path):
    teacher = {"model": "mlp", "epochs": 30, "batch_size": 2, "optimizer": "sgd", "learning_rate": 10}
    outcome = edgekd("pipeline", write_recipe(teacher=teacher), "--json")
    content = json.loads(outcome.out)["error"]
    assert (outcome.code, content["code"]) == (3, "E-TRAIN")
    log = Path(content["log"])
    assert log.parent == tmp_path / "store" / "logs"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[0]["event"] == "run"
    assert (lines[-1]["event"], lines[-1]["code"], lines[-1]["message"]) == ("failed", "E-TRAIN", content["message"])
    again = edgekd("pipeline", "small.yaml", "-q")
    assert again.err.splitlines()[-1].startswith(f"log: {log.parent}")
    rows = json.loads(edgekd("cache", "ls", "--json").out)
    assert [row["kind"] for row in rows].count("log") == 2
    gone = json.loads(edgekd("cache", "gc", "--older-than", "0", "--json").out)["removed"]
    assert [row["kind"] for row in gone].count("log") == 2
    assert list(log.parent.iterdir()) == []


def test_notes_are_shown_only_when_asked_for(capsys):
    for verbose in (False, True):
        with display.working(Screen(verbose=verbose)) as show:
            show.note("step", {"step": "teacher [x]", "cached": True})
        assert capsys.readouterr().err == ("  step: step teacher [x], cached True\n" if verbose else "")
