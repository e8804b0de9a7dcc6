"""edgekd: take a large trained network to a small device, and prove it there.

from edgekd import Recipe, bench, run

result = run(Recipe.load("digits"), devices=["cpu"])
result.exit_code, result.report["devices"]["cpu"]["verdict"]
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from edgekd.version import __version__

if TYPE_CHECKING:
    from edgekd.acceptance import validate as validate
    from edgekd.benchmark import bench as bench
    from edgekd.explanation import explain as explain
    from edgekd.pipeline import Result as Result
    from edgekd.recipe import Recipe as Recipe
    from edgekd.search.budget import run as run

_PUBLIC = {
    "Recipe": "edgekd.recipe",
    "Result": "edgekd.pipeline",
    "bench": "edgekd.benchmark",
    "explain": "edgekd.explanation",
    "run": "edgekd.search.budget",
    "validate": "edgekd.acceptance",
}
# ONNX Runtime reads it once, when it is imported: without it, it sends what it runs to its maker (docs/security.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# GNU OpenMP reads it when torch is imported. Threads of a training that spin while they wait for each other take
# the time slices of those that they wait for, as soon as anything else is at work on the machine (docs/decisions.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__all__ = ["Recipe", "Result", "__version__", "bench", "explain", "run", "validate"]


def __getattr__(name: str) -> Any:
    """Import public names when they are asked for (PEP 562): the agent and `edgekd --help` need none of them."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
