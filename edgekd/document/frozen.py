"""The base of the models that users write in YAML."""

from __future__ import annotations

from typing import Any, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

_NOT_SCHEMAS = frozenset({"default", "metadata", "serialization", "config", "cls"})


def _strict_scalars(schema: Any) -> Any:
    """Return a core schema in which numbers and booleans are made neither from text nor from each other."""
    if isinstance(schema, dict):
        inner = {name: part if name in _NOT_SCHEMAS else _strict_scalars(part) for name, part in schema.items()}
        return {**inner, "strict": True} if inner.get("type") in ("int", "float", "bool") else inner
    if isinstance(schema, (list, tuple)):
        return type(schema)(_strict_scalars(part) for part in schema)
    return schema


class Frozen(BaseModel):
    """Immutable, without unknown keys, and strict about scalars: `"12"` and `true` are not numbers, `"on"` is not true.

    Lists still become tuples, and text becomes a path or an enum member, because YAML has no other way to write them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return cast("CoreSchema", _strict_scalars(handler(source)))
