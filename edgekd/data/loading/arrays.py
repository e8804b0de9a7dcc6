"""The arrays of a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgekd.data.loading.streaming import StreamedSplit

Array = NDArray[Any]
Arrays = Mapping[str, Array]


class Hash(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add data."""


@dataclass(frozen=True, eq=False)
class Split:
    """Samples and what a network should say about them. Nobody may write into the arrays: they are shared.

    Args:
        inputs: (N, ...), float32 as the network takes them (int64 for tokens).
        targets: int64 (N,), class indices; a user's own task may use another shape and type.
    """

    inputs: Array
    targets: Array

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: Array) -> Split:
        """Return some of the samples, copied."""
        return Split(self.inputs[indices], self.targets[indices])

    def loaded(self) -> Split:
        """Return the split itself: it is in memory."""
        return self

    def add_to(self, total: Hash, name: str) -> None:
        """Add the contents, types and shapes to a digest."""
        for kind, array in (("inputs", self.inputs), ("targets", self.targets)):
            total.update(f"{name}.{kind}:{array.dtype.str}:{array.shape}:".encode())
            total.update(np.ascontiguousarray(array).data)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it was read, before the recipe's choice of samples.

    Args:
        validation: None where the data set has no such split; it is then taken from the training split.
        classes: names in the order of the class indices; empty where the targets are no class indices.
        preprocessing: what was done to the inputs, for whoever feeds the exported network: JSON values.
    """

    train: Split | StreamedSplit
    validation: Split | None
    test: Split
    classes: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


def pixels(images: Array, *, scale: float, mean: float, std: float) -> Array:
    """Return (pixel * scale - mean) / std as float32, in the shape of the images."""
    values = images.astype(np.float32)
    values *= np.float32(scale)
    values -= np.float32(mean)
    values /= np.float32(std)
    return values


def pixel_preprocessing(*, scale: float, mean: float = 0.0, std: float = 1.0) -> dict[str, Any]:
    """Describe what `pixels` does."""
    return {"formula": "(pixel * scale - mean) / std", "scale": scale, "mean": mean, "std": std, "layout": "NCHW"}


def digest(
    splits: Mapping[str, Split | StreamedSplit], classes: Sequence[str], preprocessing: Mapping[str, Any]
) -> str:
    """Return the sha256 (hex) over the names, types, shapes and contents of all arrays and what is known about them."""
    total = hashlib.sha256(json.dumps([list(classes), preprocessing], sort_keys=True).encode())
    for name, split in splits.items():
        split.add_to(total, name)
    return total.hexdigest()
