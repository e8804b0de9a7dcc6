"""What each step is computed from: the order of the samples, the parts of a batch, their views, and their seeds.

Every random number follows from the seed, the epoch and the step: the order of the samples from the first two, mixing
and dropout from all three and, where the work is divided, the process and the part. Views follow from a seed of their
own, the sample and the number of the view. The samples that are left over when an epoch's batches are full are not
used in it; the order is another one in each epoch, so they are other ones too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd.data import Split
from edgekd.options import Augment, Training
from edgekd.training import streams
from edgekd.training.cutting import Cut, divide
from edgekd.training.engine import mixed
from edgekd.training.mixing import mix, mixes
from edgekd.training.objective import Batch
from edgekd.training.views import Views, number, streamed, views_of

ORDER, DROPOUT, MIXING = 1, 2, 3
"""Keep the seeds of one epoch apart."""


class Source(Protocol):
    """Where the inputs lie."""

    def parts(self, order: NDArray[np.int64], cut: Cut, first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield, part by part from a step of an epoch on, samples (on the CPU), inputs and targets (on the device)."""

    def close(self) -> None:
        """Let go of what reading holds."""


@dataclass  # made in each step: a frozen one takes several times as long
class Shown:
    """A part of a step.

    Args:
        weight: of the part in the step; those of all parts sum to one.
        seed: for whatever draws random numbers when the part is computed.
    """

    batch: Batch
    weight: float
    seed: int


class Feed:
    """Yields what each step is computed from."""

    def __init__(
        self,
        split: Any,
        options: Training,
        *,
        device: torch.device,
        layout: torch.memory_format,
        seed: int,
        view_seed: int,
    ) -> None:
        self.cut = divide(len(split), options)
        self._augment: Augment = options.augment
        self._seed, self._layout = seed, layout
        self._inputs = split.inputs
        self._views: Views | None = views_of(split.inputs, options.augment, view_seed)
        self._source: Source = (
            streams.Streamed(split, device, options.workers) if streamed(split.inputs) else Resident(split, device)
        )
        self._total = (options.epochs or 0) * self.cut.steps

    def steps(self, epoch: int, first: int) -> Iterator[tuple[int, Iterator[Shown]]]:
        """Yield, from a step of an epoch on, its number and its parts, which have to be used up before the next."""
        cut = self.cut
        order = self._order(mixed(self._seed, epoch, ORDER))
        seeds, mixing = (self._seeds(epoch, kind) for kind in (DROPOUT, MIXING))
        found = self._source.parts(order, cut, first)
        view = number(self._augment, epoch)
        mixed_up = mixes(self._augment)

        def shown(step: int) -> Iterator[Shown]:
            progress = (epoch * cut.steps + step) / self._total
            for part in range(step * cut.parts, (step + 1) * cut.parts):
                samples, inputs, targets = next(found)
                if self._views is not None:
                    inputs = self._views(inputs, samples, view)
                how = None
                if mixed_up:
                    inputs, how = mix(inputs, self._augment, mixing[part])
                inputs = inputs.contiguous(memory_format=self._layout)
                batch = Batch(inputs, targets, samples, view, progress, how)
                yield Shown(batch, len(samples) / cut.own, seeds[part])

        for step in range(first, cut.steps):
            yield step, shown(step)

    def close(self) -> None:
        """Let go of what reading holds."""
        self._source.close()

    def _seeds(self, epoch: int, kind: int) -> list[int]:
        """Return a seed for each of this process's parts of an epoch."""
        sequence = np.random.SeedSequence((self._seed, epoch, kind, self.cut.rank))
        seeds: list[int] = sequence.generate_state(self.cut.steps * self.cut.parts, np.uint32).tolist()
        return seeds

    def _order(self, seed: int) -> NDArray[np.int64]:
        """Return a permutation of the samples; of what is read from files one that keeps near samples together."""
        if hasattr(self._inputs, "order"):
            order: NDArray[np.int64] = self._inputs.order(seed)
            return order
        generator = torch.Generator().manual_seed(seed)
        shuffled: NDArray[np.int64] = torch.randperm(self.cut.samples, generator=generator).numpy()
        return shuffled


class Resident:
    """Inputs that lie on the device."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._inputs = torch.from_numpy(split.inputs).to(device)
        self._targets = torch.from_numpy(split.targets).to(device)

    def parts(self, order: NDArray[np.int64], cut: Cut, first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield samples, inputs and targets, part by part."""
        samples = torch.from_numpy(order)
        there = samples.to(self._inputs.device)
        for step in range(first, cut.steps):
            for begin, end in cut.bounds(step):
                here = there[begin:end]
                yield samples[begin:end], self._inputs.index_select(0, here), self._targets.index_select(0, here)

    def close(self) -> None:
        """Nothing is held."""


def samples_of(inputs: Any, count: int) -> Tensor:
    """Return the first samples of inputs, wherever they lie."""
    return torch.from_numpy(np.array(inputs[:count]))
