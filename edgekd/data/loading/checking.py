"""What must hold for every data set, whoever made it."""

from __future__ import annotations

import numpy as np

from edgekd.data.loading.arrays import Array, Source, Split
from edgekd.errors import UsageError

_BLOCK = 4096  # samples looked at together, so that a check needs little memory


def check(source: Source, name: str) -> None:
    """Check the splits of a data set.

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
        absent = sorted(set(range(len(source.classes))) - set(np.unique(source.train.targets).tolist()))
        if absent:
            raise UsageError(
                f"{name}: no training sample has the label {absent[0]}; "
                f"labels count from 0 to {len(source.classes) - 1}, one for each of {len(source.classes)} classes"
            )
    for key in ("validation", "test"):
        if key in present and np.array_equal(present[key].inputs, source.train.inputs):
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


def _check_split(split: Split, classes: tuple[str, ...], where: str) -> None:
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
    for kind, array in (("inputs", split.inputs), ("targets", targets)):
        if np.issubdtype(array.dtype, np.floating):
            for start in range(0, len(array), _BLOCK):
                finite = np.isfinite(array[start : start + _BLOCK]).reshape(len(array[start : start + _BLOCK]), -1)
                if not finite.all():
                    bad = start + int(np.argmin(finite.all(axis=1)))
                    raise UsageError(
                        f"{where}: the {kind} of sample {bad} have values that are not finite (NaN or Inf)"
                    )
