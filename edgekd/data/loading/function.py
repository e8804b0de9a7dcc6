"""Data from a user's own function, "package.module:function", called without arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd import plugin
from edgekd.data.loading.arrays import Array, Source, Split
from edgekd.data.loading.checking import class_names
from edgekd.errors import StageError, UsageError

_EXPECTED = (
    "it must return (train, validation, test), each a pair (inputs, targets) of numpy arrays "
    "(validation may be None), or an edgekd.data.Data"
)


def describe(name: str) -> str:
    """Return where the function is; it is not imported.

    Raises:
        UsageError: There is no such function, or it needs arguments.
    """
    found = plugin.locate(name)
    problems = plugin.check_arguments(found, {})
    if problems:
        raise UsageError(f"{problems[0]}; a function that gives data is called without arguments")
    return f"{name} in {found.path}"


def load(name: str) -> Source:
    """Call the function.

    Raises:
        UsageError: There is no such function.
        StageError: It raised, or returned something else than data.
    """
    describe(name)
    result = plugin.call(name, {})
    if all(isinstance(getattr(result, part, None), Split) for part in ("train", "test")):
        splits: dict[str, Any] = {part: getattr(result, part) for part in ("train", "validation", "test")}
        parts = {part: split and (split.inputs, split.targets) for part, split in splits.items()}
        made = {part: _split(pair, name, part) for part, pair in parts.items() if pair is not None}
        return _source(made, tuple(result.classes), dict(result.preprocessing))
    if not isinstance(result, (tuple, list)) or len(result) != 3:
        raise StageError(f"{name} returned {_kind(result)}; {_EXPECTED}")
    parts = dict(zip(("train", "validation", "test"), result, strict=True))
    made = {part: _split(pair, name, part) for part, pair in parts.items() if pair is not None or part != "validation"}
    targets = made["train"].targets
    labels = targets.ndim == 1 and targets.dtype == np.int64
    return _source(made, class_names(targets, name) if labels else (), {})


def _source(splits: dict[str, Split], classes: tuple[str, ...], preprocessing: dict[str, Any]) -> Source:
    return Source(splits["train"], splits.get("validation"), splits["test"], classes, preprocessing)


def _split(pair: Any, name: str, part: str) -> Split:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise StageError(f"{name} returned {_kind(pair)} as {part}; {_EXPECTED}")
    for array, kind in zip(pair, ("inputs", "targets"), strict=True):
        told = f"{name} returned {_kind(array)} as the {part} {kind}"
        if not isinstance(array, np.ndarray):
            raise StageError(f"{told}; {_EXPECTED}")
        integers = np.issubdtype(array.dtype, np.integer) and (kind == "targets" or array.dtype.itemsize > 1)
        if not integers and not np.issubdtype(array.dtype, np.floating):
            raise StageError(
                f"{told}; they go to the network as they are: give float32, scaled as it needs them, "
                "or int64 for tokens and labels"
            )
    return Split(*map(_wide, pair))


def _wide(array: Array) -> Array:
    return array.astype(np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {value.shape}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
