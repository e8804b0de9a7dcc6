"""How the work of an epoch is cut: into batches, over processes, and into parts that fit into memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import StageError
from edgekd.options import Training
from edgekd.training import ranks


@dataclass(frozen=True)
class Cut:
    """How the work is divided.

    Args:
        batch: samples of an update.
        own: samples of them that this process takes.
        parts: in how many parts it takes them.
        rank: which process this is.
    """

    samples: int
    batch: int
    own: int
    parts: int
    rank: int = 0

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.samples // self.batch

    def bounds(self, step: int) -> list[tuple[int, int]]:
        """Return where each of this process's parts of a step begins and ends in an epoch's order."""
        begin = step * self.batch + self.rank * self.own
        ends = [begin + self.own * part // self.parts for part in range(self.parts + 1)]
        return list(pairwise(ends))

    def chosen(self, order: NDArray[np.int64], step: int) -> list[NDArray[np.int64]]:
        """Return the samples of each of this process's parts of a step."""
        return [order[begin:end] for begin, end in self.bounds(step)]


def divide(samples: int, options: Training) -> Cut:
    """Return how batches are divided over processes and parts; one that is larger than the data is all of them.

    Raises:
        StageError: they cannot be divided evenly, or there is no sample for a process.
    """
    rank, size = ranks.world()
    if options.batch_size % size:
        raise StageError(
            f"batch_size: {options.batch_size} samples cannot be divided over {size} processes; choose a multiple of "
            f"{size}, such as {-(-options.batch_size // size) * size}"
        )
    batch = min(options.batch_size, samples // size * size)
    if batch == 0:
        raise StageError(f"{samples} training samples cannot be divided over {size} processes; start fewer")
    own = batch // size
    return Cut(samples, batch, own, min(options.accumulate, own), rank)
