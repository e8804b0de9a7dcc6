"""The command line as a whole: help, exit codes, interruption, bugs."""

from __future__ import annotations

import errno
import importlib
import sys
import tomllib
from pathlib import Path

import click
import pytest
from tiny import ROOT

from edgekd import cli
from edgekd.errors import DeviceError, StageError, UsageError
from edgekd.version import __version__

INTERRUPTED = "interrupted; what is finished is kept: run the same command again to go on"


def test_help_names_every_command_and_every_exit_code(edgekd):
    outcome = edgekd("--help")
    assert outcome.code == 0
    for name in cli.COMMANDS:
        assert f"  {name} " in outcome.out
    for code in ("0 all gates", "1 a gate", "2 wrong", "3 a stage", "4 a device", "130 interrupted"):
        assert code in " ".join(outcome.out.split())


def test_every_command_is_a_module_and_every_module_a_command():
    modules = {path.stem for path in (ROOT / "edgekd" / "cli").glob("*.py") if "\ndef command(" in path.read_text()}
    assert modules == set(cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_explains_itself_and_each_of_its_options(edgekd, name):
    command = importlib.import_module(f"edgekd.cli.{name}").command
    commands = list(command.commands.values()) if isinstance(command, click.Group) else [command]
    for one in [command, *commands]:
        assert one.help
        for option in one.params:
            if isinstance(option, click.Option):
                assert option.help or option.name == "batch_size", f"{name} {option.name}"
    outcome = edgekd(name, "--help")
    assert outcome.code == 0
    assert outcome.out.startswith("Usage: ")


def test_the_version(edgekd):
    assert edgekd("--version").out == f"edgekd {__version__}\n"


def test_the_module_and_the_script_are_the_same():
    main = importlib.import_module("edgekd.__main__")
    assert main.main is cli.main
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"edgekd": "edgekd.cli:main"}


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UsageError("a key is wrong"), 2, "error[E-USAGE]: a key is wrong\n"),
        (StageError("a stage failed"), 3, "error[E-USAGE]: a stage failed\n"),
        (DeviceError("the board is off"), 4, "error[E-USAGE]: the board is off\n"),
        (OSError(errno.ENOSPC, "full", "/data/x"), 3, "error[E-DISK]: /data/x: full\n"),
        (KeyboardInterrupt(), 130, f"\n{INTERRUPTED}\n"),
    ],
)
def test_an_error_is_told_on_standard_error_with_its_exit_code(edgekd, monkeypatch, error, code, told):
    """It is raised in this test, called by the command line."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("edgekd.recipe.find", fail)
    outcome = edgekd("recipe", "show", "digits")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", told)


@pytest.mark.parametrize("kind", [UsageError, RuntimeError])
def test_no_error_names_a_password(monkeypatch, capsys, kind):
    def fail(_: object) -> None:
        raise kind("postgresql://me:s3cret@host/db is down")

    monkeypatch.setattr("edgekd.recipe.find", fail)
    for arguments in (["recipe", "show"], ["recipe", "list", "--json", "postgresql://me:s3cret@host"]):
        monkeypatch.setattr(sys, "argv", ["edgekd", *arguments])
        with pytest.raises(SystemExit):
            cli.main()
        told = "".join(capsys.readouterr())
        kept = Path(told.split()[-1])
        if kind is RuntimeError and "show" in arguments:
            told += kept.read_text()
            kept.unlink()
        assert "postgresql://***@host" in told
        assert "s3cret" not in told


def test_a_bug_is_told_in_one_line_and_its_traceback_kept(monkeypatch, capsys):
    monkeypatch.setattr("edgekd.recipe.find", lambda name: 1 // 0)
    monkeypatch.setattr(sys, "argv", ["edgekd", "recipe", "show"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 3
    assert line.startswith("error[E-BUG]: internal error: ZeroDivisionError: ")
    kept = Path(line.rpartition(" ")[2])
    assert "ZeroDivisionError" in kept.read_text()
    kept.unlink()
