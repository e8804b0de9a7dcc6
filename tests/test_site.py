"""The reference of the site, made from the code, has everything that the code takes."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

import click
import pytest
import yaml
from tiny import ROOT

from edgekd import cli
from edgekd.device import Device
from edgekd.options import Gates
from edgekd.profiles import shipped_devices
from edgekd.recipe import Recipe, shipped_recipes
from edgekd.stages import declared
from edgekd.terms import losses


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """Return the hook, read as mkdocs reads it: by its path."""
    spec = importlib.util.spec_from_file_location("site_reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(hook: ModuleType) -> dict[str, str]:
    found: dict[str, str] = hook.reference()
    return found


def rows(page: str, title: str) -> dict[str, list[str]]:
    """Return the table below a title: by key its other cells."""
    section = re.split(r"^## ", page, flags=re.MULTILINE)
    (text,) = [one for one in section if one.startswith(f"{title}\n")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
    return {key.strip(" `"): [cell.strip() for cell in others] for key, *others in cells}


def test_each_option_of_each_stage_is_there_with_its_default(pages: dict[str, str]):
    page = pages["reference/recipe.md"]
    for name, found in declared().items():
        table = rows(page, name)
        assert set(table) == {field.removesuffix("_") for field in found.options.model_fields}, name
        for field, info in found.options.model_fields.items():
            if isinstance(info.default, int | float) and not isinstance(info.default, bool):
                assert table[field][1] == f"`{info.default}`", (name, field)
    assert set(rows(page, "recipe")) == {field.removesuffix("_") for field in Recipe.model_fields}
    assert set(rows(page, "gates")) == set(Gates.model_fields)


def test_limits_and_meanings_are_those_of_the_models(pages: dict[str, str]):
    page = pages["reference/recipe.md"]
    assert rows(page, "prune")["scope"] == [
        "`uniform` or `global`", '`"uniform"`',
        '"uniform": the ratio holds in every layer. "global": layers compete, unimportant ones lose more.',
    ]  # fmt: skip
    assert rows(page, "gates")["max_drop_pp"][0] == "a number >= 0 and <= 100"
    assert rows(page, "teacher")["patience"][2].startswith("Stop when the validation metric has not risen")
    assert rows(page, "recipe")["data"][:2] == ["[data](#data)", "needed"]
    assert "arXiv:2301.12900" in page  # of the docstring of pruning


def test_each_key_of_a_device_profile_is_there(pages: dict[str, str]):
    page = pages["reference/device.md"]
    assert set(rows(page, "device")) == set(Device.model_fields)
    assert "pace_hz" in rows(page, "power")
    assert "reduce_range" in rows(page, "quantization")


def test_each_loss_is_there_with_its_options(pages: dict[str, str]):
    page = pages["reference/losses.md"]
    for name, loss in losses().items():
        if name == loss.name:
            assert set(rows(page, name)) == set(loss.schema.model_fields), name
    assert "KL" in page


def options_of(command: click.Command, words: str):
    yield words, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            own = command.get_command(click.Context(command), name)
            assert own is not None
            yield from options_of(own, f"{words} {name}")


def test_each_option_of_each_command_is_there(pages: dict[str, str]):
    page = pages["reference/commands.md"]
    for words, command in options_of(cli.cli, "edgekd"):
        (text,) = [one for one in page.split("\n## ") if one.startswith(f"{words}\n")]
        for option in command.params:
            for flag in option.opts if isinstance(option, click.Option) else ():
                assert flag in text, (words, flag)


def test_what_is_shipped_and_what_python_has_is_there(pages: dict[str, str]):
    for name in (*shipped_recipes(), *shipped_devices()):
        assert f"\n### {name}\n" in pages["reference/shipped.md"]
    for name in ("Recipe", "run", "bench", "validate", "explain"):
        assert f"\n## {name}\n" in pages["reference/python.md"]


def test_links_hold_on_the_site_as_on_a_code_host(hook: ModuleType):
    class Page:
        def __init__(self, source: str) -> None:
            self.file = type("File", (), {"src_uri": source})

    turned = hook.on_page_markdown("[a](docs/ci.md#x) [b](CONTRIBUTING.md) [c](https://x.y)", page=Page("index.md"))
    assert turned == "[a](ci.md#x) [b](contributing.md) [c](https://x.y)"
    turned = hook.on_page_markdown("[a](../action.yml) ![b](report.png) [c](#here)", page=Page("ci.md"))
    assert turned == "[a](files/action.yml) ![b](report.png) [c](#here)"


def test_the_menu_has_every_page(hook: ModuleType, pages: dict[str, str]):
    text = (ROOT / "mkdocs.yml").read_text()
    menu = yaml.safe_load(text[text.index("nav:") :])["nav"]

    def leaves(node):
        return [node] if isinstance(node, str) else [one for value in (
            node.values() if isinstance(node, dict) else node) for one in leaves(value)]  # fmt: skip

    written = {path.name for path in (ROOT / "docs").glob("*.md")} | set(hook.HOME.values())
    assert sorted(leaves(menu)) == sorted(written | set(pages))
