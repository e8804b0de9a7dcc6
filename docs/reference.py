"""What the site has beside the files of this folder: a reference made from the code when the site is built.

A hook of mkdocs. Nothing of it is kept in the repository: keys, defaults and limits are those of the models that check
a recipe, texts are their docstrings, and the commands say themselves what they take.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import posixpath
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

import edgekd
from edgekd import cli, recipe
from edgekd.device import Device
from edgekd.profiles import shipped_devices
from edgekd.stages import declared
from edgekd.terms import FAMILIES, Pair, Weighting, losses

ROOT = Path(__file__).resolve().parent.parent
HOME = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_WIDTH = 92  # characters of a line of text that fit a page
_LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of this folder, and the files that pages link to."""
    pages = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in HOME.items()} | reference()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for path in sorted(_linked()):
        files.append(File.generated(config, f"files/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Let links that hold on a code host hold on the site too."""
    source = page.file.src_uri
    if source.startswith("reference/"):
        return markdown
    folder = "" if source in HOME.values() else "docs"
    return _LINK.sub(lambda found: _on_site(posixpath.normpath(posixpath.join(folder, found[1]))), markdown)


def _on_site(path: str) -> str:
    """Where a file of the repository lies on the site."""
    return HOME.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}")


def _linked() -> set[str]:
    """The files outside this folder that pages link to."""
    found = set()
    for page in [*(ROOT / name for name in HOME), *(ROOT / "docs").glob("*.md")]:
        folder = page.parent.relative_to(ROOT).as_posix()
        for link in _LINK.findall(page.read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(folder, link))
            if path not in HOME and not path.startswith("docs/") and (ROOT / path).is_file():
                found.add(path)
    return found


def reference() -> dict[str, str]:
    """Return the pages of the reference by their path on the site."""
    return {
        "reference/commands.md": commands(),
        "reference/recipe.md": recipes(),
        "reference/losses.md": losses_page(),
        "reference/device.md": devices(),
        "reference/shipped.md": shipped(),
        "reference/python.md": python(),
    }


def commands() -> str:
    """Every command with the help that it prints."""
    parts = ["# Commands", "What `edgekd COMMAND --help` prints."]
    for words, command, context in _commands(
        cli.cli, click.Context(cli.cli, info_name="edgekd", terminal_width=_WIDTH)
    ):
        parts += [f"## {words}", _verbatim(command.get_help(context))]
    return "\n\n".join(parts) + "\n"


def _commands(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            own = command.get_command(context, name)
            assert own is not None
            yield from _commands(own, click.Context(own, context, info_name=name, terminal_width=_WIDTH))


def recipes() -> str:
    """Every key of a recipe."""
    stages = {name: found.options for name, found in declared().items() if name != "teacher"}  # that is a network too
    parts = [
        "# Recipe",
        "Every key, its default and its limits, as `edgekd recipe check` sees them; `edgekd recipe show --resolved` "
        "prints a recipe with all of them. A stage is switched off by `prune: false`, and on by `baseline: true`.",
    ]
    named = {"recipe": recipe.Recipe, **stages}
    for title, model in _sections(named).items():
        what = f"A stage. {_first(inspect.getdoc(inspect.getmodule(model)))}" if title in stages else ""
        parts += [f"## {title}", what, _about(model), _table(model, stages)]
    return "\n\n".join(part for part in parts if part) + "\n"


def devices() -> str:
    """Every key of a device profile."""
    parts = ["# Device profile", "Every key of a profile, its default and its limits."]
    for title, model in _sections({"device": Device}).items():
        parts += [f"## {title}", _about(model), _table(model)]
    return "\n\n".join(part for part in parts if part) + "\n"


def shipped() -> str:
    """What is shipped: recipes and device profiles, each with its manual."""
    parts = [
        "# Shipped recipes and devices",
        "Each file's manual, as `edgekd recipe show` and `edgekd device show` have it.",
    ]
    for title, paths in (("Recipes", recipe.shipped_recipes()), ("Devices", shipped_devices())):
        parts.append(f"## {title}")
        for name, path in paths.items():
            parts += [f"### {name}", _verbatim(recipe.manual(path))]
    return "\n\n".join(parts) + "\n"


def losses_page() -> str:
    """Every loss with its equation and its options."""
    parts = [
        "# Losses",
        "What a term of `distill.losses` may be. `z` are logits, `f` features; how to choose is told in "
        "[distillation](../distillation.md).",
    ]
    for name, loss in losses().items():
        if name != loss.name:
            parts += [f"## {name}", f"Another name of [{loss.name}](#{loss.name})."]
            continue
        source = (Path(edgekd.__file__).parent / FAMILIES / f"{loss.family}.py").read_text(encoding="utf-8")
        functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        text = ast.get_docstring(functions[name]) or ""
        parts += [f"## {name}", f"On {loss.on}, of the family `{loss.family}`.", _verbatim(text), _table(loss.schema)]
    parts += ["## pair", _about(Pair), _table(Pair)]
    return "\n\n".join(parts) + "\n"


def python() -> str:
    """What `import edgekd` gives."""
    parts = ["# Python", "The same as the commands, from Python."]
    for name in sorted(set(edgekd.__all__) - {"__version__"}):
        found = getattr(edgekd, name)
        shown = f"class {name}" if isinstance(found, type) else _signature(name, found)
        parts += [f"## {name}", _verbatim(f"{shown}\n\n{textwrap.indent(inspect.getdoc(found) or '', '    ')}")]
    return "\n\n".join(parts) + "\n"


def _signature(name: str, function: Callable[..., Any]) -> str:
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", f"{name}{inspect.signature(function)}")
    return textwrap.fill(text, _WIDTH, subsequent_indent=" " * (len(name) + 1), break_long_words=False)


def _sections(named: Mapping[str, type[BaseModel]]) -> dict[str, type[BaseModel]]:
    """The models by title: those that are named, then all that they hold."""
    found = dict(named)
    queue = list(found.values())
    while queue:
        for field in queue.pop(0).model_fields.values():
            for model in _models(field.annotation):
                if model not in found.values() and not issubclass(model, Weighting) and model.__name__ != "One":
                    found[model.__name__.lower()] = model
                    queue.append(model)
    return found


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from _models(one)


def _about(model: type[BaseModel]) -> str:
    """A model's own docstring, without what it raises."""
    text = inspect.cleandoc(model.__doc__ or "")
    return text.partition("\nRaises:")[0].strip()


def _first(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _table(model: type[BaseModel], stages: Mapping[str, type[BaseModel]] | None = None) -> str:
    """A model's keys: what each may be, its default, and what it means."""
    schema = model.model_json_schema()
    properties, needed = schema.get("properties", {}), schema.get("required", [])
    if not properties:
        return "It has no keys of its own: `true` or `false`."
    told = _docstrings(model)
    rows = ["| key | may be | default | meaning |", "|---|---|---|---|"]
    for key, node in sorted(properties.items(), key=lambda item: item[0] in (stages or {})):  # stages come last
        field = key if key in model.model_fields else f"{key}_"
        about = told.get(field, "")
        if stages and key in stages and model is recipe.Recipe and not about:
            about = _first(inspect.getdoc(inspect.getmodule(stages[key])))
        cells = (f"`{key}`", _kind(node), "needed" if key in needed else _default(node), " ".join(about.split()))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def _default(node: Mapping[str, Any]) -> str:
    value = node.get("default")
    return "" if value is None or "$ref" in node else f"`{json.dumps(value, ensure_ascii=False)}`"


_WORDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "`true` or `false`"}
_LIMITS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


def _kind(node: Mapping[str, Any]) -> str:
    """A part of a JSON schema in words."""
    if "$ref" in node:
        return _reference(node["$ref"].rpartition("/")[2])
    several = node.get("anyOf") or node.get("oneOf") or node.get("allOf")
    if several:
        kinds = dict.fromkeys(_kind(one) for one in several if one.get("type") != "null")
        return " or ".join(kinds)
    if "enum" in node or "const" in node:
        return " or ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        return f"a list, each {_kind(node['items'])}" if node.get("items") else "a list"
    if node.get("type") == "object":
        values = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), None)
        return f"names, each with {_kind(values)}" if isinstance(values, dict) and values else "names with values"
    limits = " and ".join(f"{sign} {node[key]:g}" for key, sign in _LIMITS.items() if key in node)
    return f"{_WORDS.get(node.get('type', ''), 'anything')} {limits}".strip()


def _reference(name: str) -> str:
    if name.endswith("_options") or name == "One":
        return "[a loss](losses.md)"
    title = name.split("__")[-2] if "__" in name else name.lower()  # edgekd__stages__prune__Options
    return f"[{title}](#{title})"


@cache
def _docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """The text below each field, of the class and of those that it is made from."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if not issubclass(one, BaseModel) or one is BaseModel or not one.__module__.startswith("edgekd."):
            continue
        module = ast.parse(inspect.getsource(importlib.import_module(one.__module__)))
        body = next(
            (node.body for node in ast.walk(module) if isinstance(node, ast.ClassDef) and node.name == one.__name__), []
        )
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
                found[field.target.id] = inspect.cleandoc(str(text.value.value)) if is_text else ""
    return found


def _verbatim(text: str) -> str:
    return f"```text\n{text.strip()}\n```"
