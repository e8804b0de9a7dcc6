"""Choosing samples: seeded, and balanced by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekd.data.loading.arrays import Array, Split
from edgekd.data.loading.streaming import StreamedSplit
from edgekd.errors import UsageError

Indices = NDArray[np.intp]
AnySplit = Split | StreamedSplit


def choose(targets: Array, count: int, seed: tuple[int, ...]) -> Indices:
    """Return the sorted indices of `count` samples, a random choice that depends on the seed alone.

    Of class indices, int (N,), each class gives its share of the count, rounded up or down (largest remainders).

    Args:
        targets: the targets to choose from, (N, ...).
        count: how many, at most N.
        seed: any non-negative integers; the last one is usually what the choice is for.
    """
    # The raw stream of a bit generator is the same in every numpy version; that of `Generator.permutation` need not be.
    rank = np.argsort(np.random.PCG64(list(seed)).random_raw(len(targets)), kind="stable")
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        return np.sort(rank[:count])
    labels, sizes = np.unique(targets, return_counts=True)
    shares = count * sizes  # in units of 1/N, so that integers suffice
    quotas = shares // len(targets)
    largest = np.argsort(-(shares % len(targets)), kind="stable")
    quotas[largest[: count - quotas.sum()]] += 1
    chosen = [rank[targets[rank] == label][:quota] for label, quota in zip(labels, quotas, strict=True)]
    return np.sort(np.concatenate(chosen))


def subset(split: AnySplit, count: int | None, seed: tuple[int, ...], what: str) -> AnySplit:
    """Return `count` samples of a split, or all of them for None.

    Raises:
        UsageError: There are fewer.
    """
    if count is None or count == len(split):
        return split
    if count > len(split):
        raise UsageError(f"data: {count} {what} samples are asked for; there are {len(split)}")
    return split.take(choose(split.targets, count, seed))


def hold_out(train: AnySplit, validation: float | int | None, seed: tuple[int, ...]) -> tuple[AnySplit, Split]:
    """Divide the training split into training and validation; the latter is read into memory.

    Args:
        validation: an int is a number of samples, a float a part of the training split.

    Raises:
        UsageError: That leaves nothing on one of the sides.
    """
    if validation is None:
        raise UsageError(
            "data: there is no validation split; say how much of the training split to hold out: validation: 0.1"
        )
    total = len(train)
    count = round(validation * total) if isinstance(validation, float) else validation
    if not 0 < count < total:
        raise UsageError(
            f"data: validation: {validation} holds out {count} of {total} training samples; "
            f"at least one must be held out and one left (a part between 0 and 1, or a number below {total})"
        )
    held = choose(train.targets, count, seed)
    kept = np.setdiff1d(np.arange(total), held, assume_unique=True)
    return train.take(kept), train.take(held).loaded()


def leave_out(train: AnySplit, omit: Sequence[int], classes: Sequence[str]) -> AnySplit:
    """Return a training split without the samples of some classes.

    Raises:
        UsageError: There is no such class, or nothing would be left.
    """
    if not omit:
        return train
    unknown = sorted(label for label in omit if not 0 <= label < len(classes))
    if unknown:
        known = f"they count from 0 to {len(classes) - 1}" if classes else "the targets are no class indices"
        raise UsageError(f"data.omit: there is no class {unknown[0]}: {known}")
    kept = np.flatnonzero(~np.isin(train.targets, omit))
    if not len(kept):
        raise UsageError(f"data.omit: without the classes {', '.join(map(str, omit))} no training sample is left")
    return train.take(kept)
