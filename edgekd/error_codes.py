"""The short, stable codes of errors, explained in docs/errors.md.

A code says which part of edgekd refused or failed, and follows from the module that raised the error; the error's class
says with which exit code. Nothing is written where an error is raised.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

BUG, DISK, INTERRUPTED, USAGE = "E-BUG", "E-DISK", "E-INTERRUPTED", "E-USAGE"
"""What no module raises: an error that edgekd did not expect, a disk, an interruption, a command line."""

AREAS = {
    "edgekd.acceptance": "E-VALIDATE",
    "edgekd.adding": "E-BUNDLE",
    "edgekd.artifact": "E-STORE",
    "edgekd.benchmark": "E-BENCH",
    "edgekd.checks": "E-CHECK",
    "edgekd.cli": USAGE,
    "edgekd.compress": "E-QUANTIZE",
    "edgekd.compress.channels": "E-PRUNE",
    "edgekd.compress.depth": "E-PRUNE",
    "edgekd.compress.factorable": "E-FACTORIZE",
    "edgekd.compress.factorization": "E-FACTORIZE",
    "edgekd.compress.keeping": "E-PRUNE",
    "edgekd.compress.pruning": "E-PRUNE",
    "edgekd.compress.sparsity": "E-PRUNE",
    "edgekd.compress.template": "E-SEARCH",
    "edgekd.data": "E-DATA",
    "edgekd.dispatch": "E-DEVICE",
    "edgekd.dispatch.archive": "E-BUNDLE",
    "edgekd.dispatch.bundle": "E-BUNDLE",
    "edgekd.dispatch.external": "E-METER",
    "edgekd.distill": "E-DISTILL",
    "edgekd.document": "E-YAML",
    "edgekd.explanation": "E-EXPLAIN",
    "edgekd.graph": "E-ONNX",
    "edgekd.graph.dyeing": "E-SEARCH",
    "edgekd.graph.export": "E-EXPORT",
    "edgekd.graph.half": "E-EXPORT",
    "edgekd.graph.template": "E-SEARCH",
    "edgekd.making": "E-INSTALL",
    "edgekd.models": "E-NETWORK",
    "edgekd.pipeline": "E-CHECK",
    "edgekd.plugin": "E-PLUGIN",
    "edgekd.profiles": "E-PROFILE",
    "edgekd.recipe": "E-RECIPE",
    "edgekd.report": "E-REPORT",
    "edgekd.report.baseline": "E-BASELINE",
    "edgekd.report.external": "E-METER",
    "edgekd.rundir": "E-OUT",
    "edgekd.search": "E-SEARCH",
    "edgekd.study": "E-STUDY",
    "edgekd.tasks": "E-TASK",
    "edgekd.training": "E-TRAIN",
    "edgekd.training.networks": "E-NETWORK",
    "edgekd.training.ranks": "E-RANKS",
    "edgekd.tuning": "E-SEARCH",
    "edgekd.validation": "E-VALIDATE",
}
"""The code of each module that raises errors, or of the package around it: the longest name that fits counts."""


def code(error: BaseException) -> str:
    """Return the code of an error that was raised: that of the module of edgekd that raised it."""
    modules = [name for name in _modules(error) if area(name)]
    return area(modules[-1]) or BUG if modules else BUG


def area(module: str) -> str | None:
    """Return the code of what a module raises, None for one that raises nothing."""
    name = module
    while name not in AREAS and "." in name:
        name = name.rpartition(".")[0]
    return AREAS.get(name)


def _modules(error: BaseException) -> Iterator[str]:
    """Yield the modules that an error came through, the one that raised it last."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield str(frame.f_globals.get("__name__", ""))
