"""Classes and enumerations with exactly the names that a release of TensorRT's Python bindings has."""

from __future__ import annotations

import enum
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAMES = Path(__file__).resolve().parents[4] / "shared/reference/tensorrt_python_names.json"
"""{"release/8.5": {"Builder": [names], ...}, ...}: extracted from the sources of the bindings."""


@functools.cache
def releases() -> dict[str, dict[str, list[str]]]:
    """Return the names of each release; {} where the list is not there."""
    if not NAMES.exists():
        return {}
    return {key.removeprefix("release/"): value for key, value in json.loads(NAMES.read_text()).items()}


def number(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def binding(name: str, listed: Sequence[str] | None, behaviour: Mapping[str, Any], base: type = object) -> type:
    """Return a class that has the listed names and no others.

    A listed name without a behaviour fails when it is used; a behaviour that is not listed is left out; attributes that
    are not listed cannot be set, as on the real classes. With `listed` None the behaviour is all there is.
    """
    names = set(behaviour) if listed is None else set(listed)

    def set_attribute(self: Any, attribute: str, value: Any) -> None:
        if not attribute.startswith("_") and attribute not in names:
            raise AttributeError(f"{name!r} object has no attribute {attribute!r}")
        object.__setattr__(self, attribute, value)

    private = {key: value for key, value in behaviour.items() if key.startswith("_")}
    public = {key: behaviour[key] if key in behaviour else _unwritten(name, key) for key in names - set(private)}
    return type(name, (base,), {**public, **private, "__setattr__": set_attribute})


def members(source: type) -> dict[str, Any]:
    """Return what a class statement defines, as the behaviour of a binding."""
    return {key: value for key, value in vars(source).items() if key == "__init__" or not key.startswith("__")}


def _unwritten(name: str, attribute: str) -> property:
    def fail(self: Any) -> Any:
        raise AssertionError(f"the stand-in does not do {name}.{attribute}, which the release has")

    return property(fail)


class _Named(enum.Enum):
    """Like the enumerations of pybind11: no integer, but int() of one is its value."""

    def __int__(self) -> int:
        return int(self.value)


def enumeration(name: str, members: Sequence[str]) -> Any:
    return _Named(name, {member: index for index, member in enumerate(members)})  # type: ignore[arg-type]
