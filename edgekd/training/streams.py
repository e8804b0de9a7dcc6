"""Inputs that are read while the network trains, by processes of their own, in the order that training uses them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgekd.errors import StageError
from edgekd.stage import threads
from edgekd.training import ranks
from edgekd.training.cutting import Cut

MOST_WORKERS = 4
READ_AHEAD = 4
"""Parts of batches that each worker has ready."""


class Streamed:
    """Inputs that are read when they are needed; the targets lie on the device.

    Args:
        split: its inputs are indexed by integers (B,).
        workers: processes that read; None: as many as this process has cores, four at most; 0: this process itself.
    """

    def __init__(self, split: Any, device: torch.device, workers: int | None) -> None:
        self._device = device
        self._targets = torch.from_numpy(np.array(split.targets)).to(device)
        self._parts = _Parts()
        workers = min(MOST_WORKERS, threads() // ranks.local()) if workers is None else workers
        if isinstance(split.inputs, np.memmap) and multiprocessing.get_start_method() != "fork":
            workers = 0  # it would be copied to each of them, whole
        self._loader = DataLoader(
            _Reading(split.inputs),
            batch_size=None,
            sampler=self._parts,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            prefetch_factor=READ_AHEAD if workers else None,
            persistent_workers=workers > 0,
        )

    def parts(self, order: NDArray[np.int64], cut: Cut, first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield samples, inputs and targets, part by part.

        Raises:
            StageError: samples cannot be read, or a process that reads ended.
        """
        self._parts.given = [chosen for step in range(first, cut.steps) for chosen in cut.chosen(order, step)]
        try:
            for samples, inputs in self._loader:
                if isinstance(inputs, str):
                    raise StageError(inputs)
                here = samples.to(self._device, non_blocking=True)
                moved = inputs.to(self._device, non_blocking=True)
                yield samples, moved, self._targets.index_select(0, here)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise StageError(
                f"a process that reads the training samples ended: {error}; where memory ran out, set workers: 0 or 1"
            ) from error

    def close(self) -> None:
        """End the processes that read."""
        del self._loader


class _Parts(Sampler[NDArray[np.int64]]):
    """The samples of each part of an epoch's batches."""

    def __init__(self) -> None:
        self.given: list[NDArray[np.int64]] = []

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)


class _Reading(Dataset[tuple[Any, Any]]):
    """Reads the samples of a part; what goes wrong is given back as text, for the process that trains to tell."""

    def __init__(self, inputs: Any) -> None:
        self._inputs = inputs

    def __getitem__(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor | str]:
        samples = torch.from_numpy(chosen)
        try:
            return samples, torch.from_numpy(np.ascontiguousarray(self._inputs[chosen]))
        except StageError as error:
            return samples, str(error)
        except (OSError, ValueError, TypeError, LookupError) as error:
            return samples, f"training samples {chosen[:3].tolist()}... cannot be read: {error}"
