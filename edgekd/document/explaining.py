"""Pydantic's errors in the words of the document: one problem per key, with what is allowed and a did-you-mean."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edgekd.document.problem import Problem, suggest
from edgekd.document.reading import Document, Key, dotted, shown

# What is allowed, by pydantic's name of the error.
_ALLOWED = {
    "string_type": "text",
    "path_type": "a path",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "finite",
    "none_required": "null",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
}

_EXPLAINED = 200  # a document with more errors is something else


@dataclass(frozen=True)
class _Branch:
    """A step of an error's location that is no key of the document: the branch of a union it was tried as."""

    name: str


@dataclass(frozen=True)
class _Finding:
    """Pydantic errors about one place: several when each branch of a union failed there."""

    steps: tuple[str | int | _Branch, ...]
    errors: tuple[ErrorDetails, ...]

    @property
    def key(self) -> Key:
        return tuple(step for step in self.steps if not isinstance(step, _Branch))


def explain(error: ValidationError, model: type[BaseModel], document: Document) -> list[Problem]:
    """Return the problems that a failed validation of a document's data found."""
    details = error.errors(include_url=False)[:_EXPLAINED]
    located = [_Finding(_steps(detail, document.data), (detail,)) for detail in details]
    problems = []
    for finding in _one_per_union(located, 0):
        kind, key = finding.errors[0]["type"], finding.key
        # A missing key has no line: the mapping that lacks it has.
        place = document.place(key[:-1] if kind == "missing" else key)
        if kind == "extra_forbidden":
            message = _unknown_key(finding, model)
        else:
            message = "required, but missing" if kind == "missing" else _not_allowed(finding.errors)
        problems.append(Problem(place.source, place.line, dotted(key), message))
    return list(dict.fromkeys(problems))


def _steps(error: ErrorDetails, data: Any) -> tuple[str | int | _Branch, ...]:
    """Tell keys from union branches in an error's location by walking the data along it."""
    steps: list[str | int | _Branch] = []
    last = len(error["loc"]) - 1
    for index, item in enumerate(error["loc"]):
        inside = isinstance(data, Mapping) and item in data
        if inside or (isinstance(data, (list, tuple)) and isinstance(item, int) and item < len(data)):
            steps.append(item)
            data = data[item]
        elif index == last and error["type"] == "missing":
            steps.append(item)
        elif item != "[key]":
            steps.append(_Branch(str(item)))
    return tuple(steps)


def _one_per_union(findings: Sequence[_Finding], start: int) -> list[_Finding]:
    """Keep, of the branches of each union, the one that was meant, or join them when none was."""
    kept: list[_Finding] = []
    unions: dict[tuple[str | int | _Branch, ...], dict[_Branch, list[_Finding]]] = {}
    for finding in findings:
        at = next((i for i in range(start, len(finding.steps)) if isinstance(finding.steps[i], _Branch)), None)
        if at is None:
            kept.append(finding)
        else:
            branch = finding.steps[at]
            assert isinstance(branch, _Branch)
            unions.setdefault(finding.steps[:at], {}).setdefault(branch, []).append(finding)
    for prefix, branches in unions.items():
        resolved = [_one_per_union(group, len(prefix) + 1) for group in branches.values()]
        # A branch that complains only about what is inside the value accepted the kind of value: it was meant.
        meant = [group for group in resolved if all(len(finding.key) > len(_keys(prefix)) for finding in group)]
        if meant:
            simplest = min(meant, key=len)
            kept += simplest
        else:
            kept.append(_Finding(prefix, tuple(error for group in resolved for error in group[0].errors)))
    return kept


def _keys(steps: Sequence[str | int | _Branch]) -> Key:
    return tuple(step for step in steps if not isinstance(step, _Branch))


def _not_allowed(errors: Sequence[ErrorDetails]) -> str:
    """Return what was given and what is allowed."""
    given = errors[0]["input"]
    custom = [str(error["ctx"]["error"]) for error in errors if error["type"] in ("value_error", "assertion_error")]
    if custom:  # the words of the model's own validator
        return custom[0] if isinstance(given, (Mapping, list, tuple)) else f"{shown(given)} is not allowed: {custom[0]}"
    allowed: list[str] = []
    choices: list[str] = []
    for error in errors:
        context = {name: _round(value) for name, value in error.get("ctx", {}).items()}
        if error["type"] in ("literal_error", "enum"):
            names = re.findall(r"'((?:[^'\\]|\\.)*)'", context["expected"])
            choices += names
            allowed += [f'"{name}"' for name in names] or [context["expected"].lower()]
        else:
            phrase = _ALLOWED.get(error["type"].replace("_parsing", "_type"))
            allowed.append(phrase.format(**context) if phrase else error["msg"].removeprefix("Input should be "))
    *most, final = dict.fromkeys(allowed)
    phrases = f"{', '.join(most)} or {final}" if most else final
    return (
        f"{shown(given)} is not allowed: must be {phrases}{suggest(given, choices) if isinstance(given, str) else ''}"
    )


def _round(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _unknown_key(finding: _Finding, model: type[BaseModel]) -> str:
    known = sorted({name for parent in _models(model, finding.steps[:-1]) for name in _fields(parent)})
    return f"unknown key{suggest(str(finding.steps[-1]), known)} (known: {', '.join(known) or 'none'})"


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _models(model: type[BaseModel], steps: Sequence[str | int | _Branch]) -> list[type[BaseModel]]:
    """Return the models that the value at the end of some steps may be."""
    candidates: list[Any] = [model]
    for step in steps:
        if isinstance(step, _Branch):
            named = [one for one in candidates if getattr(one, "__name__", "?") in step.name]
            candidates = named or candidates
        else:
            candidates = [inner for one in candidates for inner in _inside(one, step)]
    return [one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)]


def _inside(candidate: Any, step: str | int) -> Iterator[Any]:
    """Yield the types that a key of a model or mapping, or an item of a list, may be."""
    if isinstance(candidate, type) and issubclass(candidate, BaseModel):
        yield from _alternatives(_fields(candidate).get(str(step)))
    else:
        for item in get_args(candidate):
            yield from _alternatives(item)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation allows: the branches of unions, without `Annotated`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for branch in get_args(annotation):
            yield from _alternatives(branch)
    else:
        yield annotation
