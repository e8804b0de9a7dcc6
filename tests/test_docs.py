"""What the documentation tells a user to type works."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest
from tiny import ROOT

from edgekd import Recipe, cli
from edgekd import recipe as recipes
from edgekd.document import parse

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MANUALS = recipes.shipped_recipes()
BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def _blocks(*kinds: str) -> list[tuple[str, str]]:
    """Return (page, text) of the fenced blocks of some kinds."""
    return [
        (page.name, found["text"])
        for page in PAGES
        for found in BLOCK.finditer(page.read_text())
        if found["kind"] in kinds
    ]


def _commands() -> list[tuple[str, list[str]]]:
    """Return (page, arguments) of every `edgekd` command in the documentation and the recipes' manuals."""
    texts = _blocks("console", "sh", "bash")
    texts += [(path.name, recipes.manual(path)) for path in MANUALS.values()]
    return [
        (page, shlex.split(line.strip().removeprefix("$ "), comments=True)[1:])
        for page, text in texts
        for line in text.splitlines()
        if line.strip().removeprefix("$ ").startswith("edgekd ")
    ]


def commands_of_others() -> list[str]:
    """Return the lines of the documentation's command blocks that call another program."""
    lines = [
        line.strip().removeprefix("$ ") for _, text in _blocks("console", "sh", "bash") for line in text.splitlines()
    ]
    return [line for line in lines if line and not line.startswith(("edgekd ", "#"))]


COMMANDS = _commands()


def test_there_are_commands_in_the_readme_in_the_guide_and_in_every_manual():
    assert {page for page, _ in COMMANDS} >= {"README.md", "guide.md", *(path.name for path in MANUALS.values())}
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("arguments", {" ".join(rest): rest for _, rest in COMMANDS}.values(), ids=" ".join)
def test_a_command_is_one_that_the_command_line_takes(arguments):
    """Only parsed: an unknown command, option or kind of value is an error."""
    command: click.Command | None = cli.cli
    rest, name = list(arguments), "edgekd"
    while isinstance(command, click.Group):
        name = rest.pop(0)
        if isinstance(command, cli.Commands):
            command = command.get_command(click.Context(command), name)
        else:
            command = command.commands.get(name)
    assert command is not None, name
    context = command.make_context(name, rest)
    for override in context.params.get("overrides", ()):
        Recipe.load(context.params.get("recipe") or context.params.get("name") or recipes.DEFAULT, [override])


def test_every_recipe_in_the_documentation_is_valid():
    texts = [(page, text) for page, text in _blocks("yaml") if re.search(r"^teacher:", text, re.MULTILINE)]
    assert len(texts) >= 2
    for page, text in texts:
        parse(text, page, Recipe, defaults={"name": "documented"})


def test_every_import_in_the_documentation_exists():
    blocks = _blocks("python")
    assert blocks
    for page, text in blocks:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("edgekd"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page}: {node.module} has no {alias.name}"


def test_every_gate_and_exit_code_is_documented():
    guide = (ROOT / "docs" / "guide.md").read_text()
    for gate in recipes.Gates.model_fields:
        assert f"`{gate}`" in guide
    for code in (0, 1, 2, 3, 4, 130):
        assert re.search(rf"^\| {code} \|", guide, re.MULTILINE)


def test_nothing_is_promised_of_a_file_that_is_gone():
    for page in PAGES:
        for name in re.findall(
            r"`((?:edgekd|docs|tests|examples|benchmarks|devices|pipelines)/[\w./-]+)`", page.read_text()
        ):
            if "NAME" not in name and "FAMILY" not in name:
                assert (ROOT / name).exists(), f"{page.name} names {name}"
    assert Path(ROOT / "docs" / "guide.md").is_file()
