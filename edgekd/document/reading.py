"""YAML text to plain data, with the place where every key was written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from edgekd.document.problem import Problem

Key = tuple[str | int, ...]
_LARGEST = 10_000  # nodes; aliases of aliases could otherwise expand without end
_DEEPEST = 50  # levels
_CORE = "tag:yaml.org,2002:"
_MERGE = _CORE + "merge"


@dataclass(frozen=True)
class Place:
    """Where something was written: a file and a line, or a `--set` text."""

    source: str
    line: int | None


@dataclass
class Document:
    """A document while it is read: its data, the place of each key, and the problems so far."""

    source: str
    data: dict[str, Any] | None = None
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, key: Key) -> Place:
        """Return where a key was written, or the innermost mapping or list around it that has a place."""
        around = (key[:length] for length in range(len(key), -1, -1))
        return next((self.places[outer] for outer in around if outer in self.places), Place(self.source, None))

    def problem(self, place: Place, key: Key, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(place.source, place.line, dotted(key), message))


def dotted(key: Key) -> str:
    """Return a key as the user would write it: `student.widths.0`."""
    return ".".join(map(str, key))


def shown(value: Any) -> str:
    """Return a short form of a value, as it is written in YAML."""
    if isinstance(value, Mapping):
        return "a mapping"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read(text: str, source: str) -> Document:
    """Read a YAML text whose top level is a mapping. Without one, `data` is None and `problems` says why."""
    document = Document(source)
    node = _compose(text, document, None)
    if isinstance(node, yaml.MappingNode):
        document.data = _Builder(document).build(node, ())
    elif node is not None:
        what = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        place = Place(source, node.start_mark.line + 1)
        document.problem(place, (), f"the document is {what}; it must be a mapping (`key: value` pairs)")
    elif not document.problems:
        document.problem(Place(source, None), (), "the file is empty; it must be a mapping (`key: value` pairs)")
    return document


def override(document: Document, text: str) -> None:
    """Apply one `key.key=value` to a document that was read; the value is YAML."""
    place = Place(f"--set {text}", None)
    path, equals, value = text.partition("=")
    names = path.strip().split(".")
    if not equals or not all(names) or not value.strip():
        document.problem(place, (), "must be KEY=VALUE or KEY.KEY=VALUE (the value `null` switches a part off)")
        return
    node = _compose(value, document, place)
    if node is None:
        return
    key: Key = ()
    parent: Any = None
    target: Any = document.data
    for name in names:
        parent, step = target, int(name) if isinstance(target, list) and name.isdecimal() else name
        if not (isinstance(parent, dict) or (isinstance(parent, list) and step in range(len(parent)))):
            message = (
                f"`{dotted(key)}` is {shown(parent)}, which has no key {shown(name)}; set `{dotted(key)}` as a whole"
            )
            document.problem(place, (*key, name), message)
            return
        key = (*key, step)
        if isinstance(parent, dict) and parent.get(name) is None:
            parent[name] = {}
            document.places[key] = place
        target = parent[step]
    document.places = {at: known for at, known in document.places.items() if at[: len(key)] != key}
    parent[step] = _Builder(document, place).build(node, key)


class _Yaml(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2's core schema."""


_Yaml.yaml_implicit_resolvers = {}  # its own, instead of YAML 1.1's
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Yaml.add_implicit_resolver(_CORE + _tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    """Return the value of a scalar. Raises ValueError or KeyError when its tag is not of the core or does not fit."""
    text: str = node.value
    tag = node.tag.removeprefix(_CORE)
    if tag == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if tag == "float":
        special = {"inf": math.inf, "nan": math.nan}.get(text.lstrip("-+.").lower())
        return float(text) if special is None else math.copysign(special, -1.0 if text[0] == "-" else 1.0)
    if tag == "bool":
        return {"true": True, "false": False}[text.lower()]
    return {"str": text, "null": None}[tag]


def _compose(text: str, document: Document, place: Place | None) -> yaml.Node | None:
    """Parse YAML into nodes; a syntax error becomes a problem, and the result is None."""
    line: int | None = None
    try:
        return yaml.compose(text, Loader=_Yaml)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        message = ", ".join(part for part in (error.context, error.problem) if part)
        if r"'\t'" in message:
            message += " (indent with spaces, not with tabs)"
    except yaml.reader.ReaderError as error:
        message = f"the character U+{error.character:04X} is not allowed"
        line = text.count("\n", 0, error.position) + 1
    except RecursionError:
        message = "nested too deeply"
    document.problem(place or Place(document.source, line), (), f"cannot be read as YAML: {message}")
    return None


class _Builder:
    """Makes plain data of YAML nodes; everything comes from `place`, or else from the node's line in the file."""

    def __init__(self, document: Document, place: Place | None = None) -> None:
        self.document = document
        self.fixed_place = place
        self.nodes = 0
        self.parents: list[yaml.Node] = []

    def build(self, node: yaml.Node, key: Key) -> Any:
        """Return a node's value, and note the place of everything in it."""
        here = self.place(node)
        self.document.places[key] = here
        self.nodes += 1
        refused = self.refusal(node)
        if refused is not None:
            if refused:
                self.document.problem(here, key, refused)
            return None
        self.parents.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*key, index)) for index, item in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, key)
            assert isinstance(node, yaml.ScalarNode)
            return _scalar(node)
        except (KeyError, ValueError):
            self.document.problem(
                here, key, f"{node.tag.replace(_CORE, '!!')} {shown(node.value)} is not a plain value"
            )
            return None
        finally:
            self.parents.pop()

    def refusal(self, node: yaml.Node) -> str | None:
        """Return why a node is not read, None where it is; beyond the largest document it is told once, then ""."""
        if node in self.parents:
            return "an alias includes itself"
        if self.nodes >= _LARGEST:
            return f"the document is too large: {_LARGEST} values" if self.nodes == _LARGEST else ""
        if len(self.parents) >= _DEEPEST:
            return f"nested too deeply: more than {_DEEPEST} levels"
        if not isinstance(node, yaml.ScalarNode) and node.tag not in (_CORE + "seq", _CORE + "map"):
            return f"the tag {node.tag.replace(_CORE, '!!')} is not known"
        return None

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        """Return a mapping: what `<<` merges into it, then its own keys, which win."""
        here = self.document.places[key]
        result: dict[str, Any] = {}
        for name, content in node.value:
            if name.tag == _MERGE:
                result.update(self.merged(content, key))
        self.document.places[key] = here
        first: dict[str, int] = {}
        for name, content in node.value:
            if name.tag == _MERGE:
                continue
            if not isinstance(name, yaml.ScalarNode):
                self.document.problem(self.place(name), key, "a key must be plain text")
            elif name.value in first:
                message = f"duplicate key, first given in line {first[name.value]}"
                self.document.problem(self.place(name), (*key, name.value), message)
            else:
                first[name.value] = name.start_mark.line + 1
                result[name.value] = self.build(content, (*key, name.value))
                self.document.places[(*key, name.value)] = self.place(name)
        return result

    def merged(self, content: yaml.Node, key: Key) -> dict[str, Any]:
        """Return what `<<: *base` or `<<: [*a, *b]` brings in; of several bases the first wins."""
        result: dict[str, Any] = {}
        for base in reversed(content.value if isinstance(content, yaml.SequenceNode) else [content]):
            part = self.build(base, key)
            if isinstance(part, dict):
                result.update(part)
            else:
                self.document.problem(self.place(content), key, "`<<` takes a mapping or a list of mappings")
        return result

    def place(self, node: yaml.Node) -> Place:
        """Return where a node was written."""
        return self.fixed_place or Place(self.document.source, node.start_mark.line + 1)
