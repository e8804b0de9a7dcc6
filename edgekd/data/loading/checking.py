"""What must hold for every data set, whoever made it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekd.data.loading.arrays import Array, Source, Split
from edgekd.data.loading.streaming import StreamedSplit
from edgekd.errors import UsageError

_BLOCK = 4096  # samples looked at together, so that a check needs little memory


def check(source: Source, name: str, omit: Sequence[int] = ()) -> None:
    """Check the splits of a data set. The values of streamed inputs were looked at when their digest was computed.

    Args:
        omit: classes that the training split need not have.

    Raises:
        UsageError: A split is empty, has not as many targets as inputs, or values that are not finite; the splits have
            different shapes or types; labels are out of range; the test split is the training split.
    """
    splits = {"train": source.train, "validation": source.validation, "test": source.test}
    present = {key: split for key, split in splits.items() if split is not None}
    for key, split in present.items():
        _check_split(split, source.classes, f"{name}: {key}")
        for kind, mine, first in (
            ("inputs", split.inputs, source.train.inputs),
            ("targets", split.targets, source.train.targets),
        ):
            if (mine.shape[1:], mine.dtype) != (first.shape[1:], first.dtype):
                raise UsageError(
                    f"{name}: a sample of the {key} {kind} is {mine.dtype} {mine.shape[1:]}, "
                    f"of the train {kind} {first.dtype} {first.shape[1:]}; they must be alike"
                )
    if source.classes:
        absent = sorted({*range(len(source.classes))} - {*np.unique(source.train.targets).tolist(), *omit})
        if absent:
            raise UsageError(
                f"{name}: no training sample has the label {absent[0]}; "
                f"labels count from 0 to {len(source.classes) - 1}, one for each of {len(source.classes)} classes"
            )
    for key in ("validation", "test"):
        if key in present and _same(present[key], source.train):
            raise UsageError(f"{name}: the {key} split is the training split; it would judge what was learned by heart")


def class_names(targets: Array, name: str) -> tuple[str, ...]:
    """Return "0", "1", ... for the class indices of a training split.

    Raises:
        UsageError: They are no integers (N,), or some are negative.
    """
    check_labels(targets, f"{name}: train")
    return tuple(map(str, range(int(targets.max()) + 1))) if len(targets) else ()


def check_labels(targets: Array, where: str) -> None:
    """Check that targets can be class indices, int (N,).

    Raises:
        UsageError: They cannot.
    """
    if targets.ndim == 2 and targets.shape[1] > 1:
        raise UsageError(f"{where}: labels have shape {targets.shape}; one-hot labels become indices by argmax(axis=1)")
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise UsageError(f"{where}: labels are {targets.dtype} {targets.shape}; they must be integers of shape (N,)")


def finite(array: Array, where: str, begin: int = 0) -> None:
    """Check samples (B, ...) of floating-point numbers.

    Args:
        begin: the number of the first one.

    Raises:
        UsageError: A value is NaN or infinite; the message names its sample.
    """
    good = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not good.all():
        bad = begin + int(np.argmin(good))
        raise UsageError(f"{where} of sample {bad} have values that are not finite (NaN or Inf)")


def _same(one: Split | StreamedSplit, other: Split | StreamedSplit) -> bool:
    """Return whether two splits have the same inputs; no more is read than up to the first difference."""
    blocks = range(0, len(one), _BLOCK)
    return one.inputs.shape == other.inputs.shape and all(
        np.array_equal(one.inputs[begin : begin + _BLOCK], other.inputs[begin : begin + _BLOCK]) for begin in blocks
    )


def _check_split(split: Split | StreamedSplit, classes: tuple[str, ...], where: str) -> None:
    if split.inputs.ndim == 0 or len(split) == 0:
        raise UsageError(f"{where}: there are no samples")
    targets = split.targets
    if targets.ndim == 0 or len(targets) != len(split):
        count = len(targets) if targets.ndim else 1
        raise UsageError(f"{where}: {len(split)} inputs but {count} targets")
    if classes:
        check_labels(targets, where)
        wrong = targets[(targets < 0) | (targets >= len(classes))]
        if len(wrong):
            raise UsageError(f"{where}: labels out of range: found {wrong[0]} with {len(classes)} classes")
    arrays = {"targets": targets} if isinstance(split, StreamedSplit) else {"inputs": split.inputs, "targets": targets}
    for kind, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating):
            for begin in range(0, len(array), _BLOCK):
                finite(array[begin : begin + _BLOCK], f"{where}: the {kind}", begin)
