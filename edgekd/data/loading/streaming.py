"""Training samples that are read when they are asked for, so that there may be more than memory holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd.data.loading.arrays import Array, Hash, Split
from edgekd.errors import StageError, UsageError

Indices = NDArray[np.int64]

_RUN_BYTES, _RUN_SAMPLES = 2**20, (16, 1024)
"""How much stays together when the files are shuffled: so many bytes, within these limits in samples."""
_WINDOW_BYTES, _WINDOW_SAMPLES = 2**30, (1024, 16384)
"""Among how much the samples are shuffled."""


class Reader(Protocol):
    """How the samples of a split are read. It is sent to other processes, so it holds no open file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...), as the network takes them."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As the network takes them."""

    @property
    def digest(self) -> str:
        """Sha256 (hex) over the contents of the files."""

    @property
    def files(self) -> Indices:
        """The first sample of each file (F,), ascending from 0."""

    @property
    def sample_bytes(self) -> float:
        """The stored size of a sample, on average."""

    def read(self, samples: Indices) -> Array:
        """Read samples (B,), in this order, as the network takes them.

        Raises:
            UsageError: One cannot be read; the message names its file and it.
        """


@dataclass(frozen=True, eq=False)
class Streamed:
    """The inputs of a training split, read when they are indexed: `inputs[10:20]`, `inputs[indices]`.

    Args:
        samples: which of the reader's samples these are (N,); None for all of them.
    """

    reader: Reader
    samples: Indices | None = None

    streamed: ClassVar[bool] = True

    def __len__(self) -> int:
        return self.reader.shape[0] if self.samples is None else len(self.samples)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        return (len(self), *self.reader.shape[1:])

    @property
    def ndim(self) -> int:
        """The number of axes, that of the samples included."""
        return len(self.reader.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of what indexing gives."""
        return self.reader.dtype

    @property
    def digest(self) -> str:
        """Sha256 (hex) over the contents of the files and the choice of samples."""
        total = hashlib.sha256(self.reader.digest.encode())
        if self.samples is not None:
            total.update(self.samples.astype("<i8").data)
        return total.hexdigest()

    def __getitem__(self, key: int | slice | Array) -> Array:
        """Read samples.

        Raises:
            StageError: One cannot be read; the message names its file and it.
        """
        if isinstance(key, int | np.integer):
            first: Array = self[np.array([key])][0]
            return first
        try:
            return self.reader.read(self._absolute(key))
        except UsageError as error:
            raise StageError(str(error)) from error

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise TypeError(f"{len(self)} streamed samples do not become one array; index them")

    def take(self, indices: Array) -> Streamed:
        """Return some of the samples; nothing is read."""
        return Streamed(self.reader, self._absolute(indices))

    def order(self, seed: int) -> Indices:
        """Return a permutation (N,) of the indices, the same for the same seed everywhere.

        Runs of samples that are stored together are shuffled, and then the samples within windows of many runs: what is
        near in the permutation is near in the files, or in few places of them.
        """
        random = np.random.PCG64(seed)  # the raw stream of a bit generator is the same in every numpy version
        starts = _runs(self.reader.files, self.reader.shape[0], _limited(_RUN_BYTES, _RUN_SAMPLES, self.reader))
        place = np.argsort(random.random_raw(len(starts)), kind="stable")
        absolute = np.arange(len(self)) if self.samples is None else self.samples
        run = np.searchsorted(starts, absolute, side="right") - 1
        order = np.argsort(place[run], kind="stable")
        window = _limited(_WINDOW_BYTES, _WINDOW_SAMPLES, self.reader)
        for begin in range(0, len(order), window):
            near = order[begin : begin + window]
            order[begin : begin + window] = near[np.argsort(random.random_raw(len(near)), kind="stable")]
        return order.astype(np.int64, copy=False)

    def _absolute(self, key: slice | Array) -> Indices:
        """Return which of the reader's samples are meant, with the rules of an array."""
        if isinstance(key, slice):
            chosen = np.arange(*key.indices(len(self)), dtype=np.int64)
        else:
            chosen = np.asarray(key)
            if chosen.dtype == bool and chosen.shape == (len(self),):
                chosen = np.flatnonzero(chosen)
            if chosen.ndim != 1 or not (np.issubdtype(chosen.dtype, np.integer) or len(chosen) == 0):
                raise TypeError(f"streamed samples are indexed by a slice or integers (B,), not {chosen.dtype} {key}")
            chosen = chosen.astype(np.int64)
            if len(chosen) and not -len(self) <= chosen.min() <= chosen.max() < len(self):
                raise IndexError(f"index {chosen.min()} or {chosen.max()} is out of range for {len(self)} samples")
            chosen[chosen < 0] += len(self)
        return chosen if self.samples is None else self.samples[chosen]


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """A training split whose inputs are read when they are indexed; the targets are in memory.

    Args:
        targets: int64 (N,), class indices.
    """

    inputs: Streamed
    targets: Array

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: Array) -> StreamedSplit:
        """Return some of the samples; nothing is read."""
        return StreamedSplit(self.inputs.take(indices), self.targets[indices])

    def loaded(self) -> Split:
        """Read all samples.

        Raises:
            UsageError: One cannot be read.
        """
        samples = np.arange(len(self)) if self.inputs.samples is None else self.inputs.samples
        return Split(self.inputs.reader.read(samples), self.targets)

    def add_to(self, total: Hash, name: str) -> None:
        """Add the contents, types and shapes to a digest."""
        total.update(f"{name}.streamed:{self.inputs.dtype.str}:{self.inputs.shape}:{self.inputs.digest}:".encode())
        total.update(np.ascontiguousarray(self.targets).data)


def _limited(size: int, limits: tuple[int, int], reader: Reader) -> int:
    """Return how many samples have about a size in bytes, within limits."""
    return min(max(int(size / max(reader.sample_bytes, 1)), limits[0]), limits[1])


def _runs(files: Indices, count: int, length: int) -> Indices:
    """Return the first sample of each run: every file is cut into runs of a length."""
    runs = -(-np.diff(files, append=count) // length)  # of each file, rounded up
    within = np.arange(runs.sum()) - np.repeat(np.cumsum(runs) - runs, runs)
    return np.asarray(np.repeat(files, runs) + length * within, np.int64)
