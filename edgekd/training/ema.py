"""The exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Follows the parameters and buffers of a network; counters are taken over as they are.

    After update t (from 0) the average moves by 1 - min(decay, (1 + t) / (10 + t)) of the way: early on, when the
    weights are still far from where they will be, it is short-lived, so that it does not remember where they began.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        followed = [*model.parameters(), *model.buffers()]
        self._averaged = [tensor for tensor in followed if tensor.is_floating_point()]
        self._counters = [tensor for tensor in followed if not tensor.is_floating_point()]
        self._decay = decay
        self.values = [tensor.detach().clone() for tensor in self._tensors]

    @property
    def _tensors(self) -> list[Tensor]:
        return [*self._averaged, *self._counters]

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Take in the weights after an update, the `done`-th from 0."""
        decay, floats = min(self._decay, (1 + done) / (10 + done)), len(self._averaged)
        torch._foreach_lerp_(self.values[:floats], self._averaged, 1 - decay)
        if self._counters:
            torch._foreach_copy_(self.values[floats:], self._counters)

    @torch.no_grad()
    def load(self, values: Sequence[Tensor]) -> None:
        """Go on from another average's `values`."""
        torch._foreach_copy_(self.values, list(values))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let the network have the average's weights for a while."""
        own = [tensor.detach().clone() for tensor in self._tensors]
        with torch.no_grad():
            torch._foreach_copy_(self._tensors, self.values)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._tensors, own)
