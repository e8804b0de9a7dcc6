"""The stages of the pipeline, one torch-free file each; the file's name is the name used in YAML."""

from __future__ import annotations

import importlib
from functools import cache
from graphlib import TopologicalSorter
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from edgekd.shipped import shipped_modules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from edgekd.stage import Stage


class Declared(NamedTuple):
    """A stage as its file declares it."""

    stage: Stage
    options: type[BaseModel]


@cache
def declared() -> Mapping[str, Declared]:
    """Return every stage by name, in the order in which they run."""
    names = shipped_modules("stages")
    found = {}
    for name in names:
        module = importlib.import_module(f"{__name__}.{name}")
        found[name] = Declared(module.STAGE, module.Options)
    order = TopologicalSorter({name: found[name].stage.after for name in names}).static_order()
    return MappingProxyType({name: found[name] for name in order})
