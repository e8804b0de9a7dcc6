"""One step of a training: the gradient of its batch, and the update of the weights."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from edgekd.errors import StageError
from edgekd.training import ranks
from edgekd.training.compiling import eager
from edgekd.training.engine import seed_everything
from edgekd.training.feeding import Shown
from edgekd.training.objective import Batch, Objective


class Step(nn.Module):
    """A network and its objective as one module, which is what is synchronised, clipped and kept.

    Args:
        lowered: whether the network computes in bf16.
        call: computes the same as the network, such as the network compiled; None: the network itself.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        lowered: bool = False,
        call: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self._lowered = lowered
        self._call = (call or model,)  # in a tuple: what is compiled is a module too, of the same weights

    def forward(self, shown: Batch | Tensor) -> dict[str, Tensor] | Tensor:
        """Return the terms of the loss on a batch; on inputs alone the network's outputs.

        The terms are computed in full precision, whatever the network computes in.
        """
        if isinstance(shown, Tensor):
            return self._outputs(self.model, shown)
        outputs = self._outputs(self._call[0], shown.inputs)
        if not self._lowered:
            return self._terms(outputs, shown)
        with torch.autocast(outputs.device.type, enabled=False):
            return self._terms(outputs, shown)

    def _outputs(self, call: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        # Accelerate lowers the precision of modules that it wraps, but for those whose weights it divides.
        if not self._lowered:
            return call(inputs).float()
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return call(inputs).float()

    def _terms(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.objective(outputs, batch)
        return terms


@dataclass(frozen=True)
class Trainer:
    """What takes steps.

    Args:
        bare: network and objective.
        step: the same as Accelerate prepared it, synchronised where there are several processes.
        parts: of each batch.
        sharded: whether each process holds a part of the weights.
        compiled: whether the network is compiled.
        foreign: whether it may draw from generators that are not torch's.
    """

    accelerator: Accelerator
    bare: Step
    step: nn.Module
    optimizer: torch.optim.Optimizer
    parts: int
    clip: float | None
    sharded: bool
    compiled: bool
    foreign: bool

    def gradient(self, shown: Iterator[Shown], norms: dict[str, float] | None) -> list[tuple[float, dict[str, Tensor]]]:
        """Compute the gradient of a batch, part by part.

        Args:
            norms: takes the norm of the gradient of each term, where there are several; None: they are not asked for.

        Returns:
            The weight and the terms of each part.

        Raises:
            StageError: the network or a term fails, or a term is not one number.
        """
        if norms is not None and self.compiled:
            # To measure gradients, a step keeps its graph for longer than what is compiled allows.
            with eager():
                return self._gradient(shown, norms)
        return self._gradient(shown, norms)

    def _gradient(
        self, shown: Iterator[Shown], norms: dict[str, float] | None
    ) -> list[tuple[float, dict[str, Tensor]]]:
        found: list[tuple[float, dict[str, Tensor]]] = []
        for part in shown:
            if len(found) == self.parts - 1:
                terms = self._part(part, True, None if found else norms)
            else:
                with self.accelerator.no_sync(self.step):
                    terms = self._part(part, False, None if found else norms)
            found.append((part.weight, terms))
        return found

    def _part(self, part: Shown, last: bool, norms: dict[str, float] | None) -> dict[str, Tensor]:
        """Add the gradient of a part of a batch, and return its terms."""
        seed_everything(part.seed, part.batch.inputs.device, others=self.foreign)
        try:
            terms: dict[str, Tensor] = self.step(part.batch)
            _check(terms)
            if norms is not None and len(terms) > 1 and not self.sharded:
                norms |= {name: self._norm(term) for name, term in terms.items()}
            loss = reduce(operator.add, terms.values())
            self._backward(loss if part.weight == 1 else loss * part.weight, last)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if ranks.lost(error):
                raise
            hint = "; lower batch_size, or raise accumulate" if isinstance(error, torch.OutOfMemoryError) else ""
            raise StageError(
                f"training fails on a batch of shape {tuple(part.batch.inputs.shape)}: {error}{hint}"
            ) from error
        return terms

    def _backward(self, loss: Tensor, last: bool) -> None:
        if self.sharded and self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            self.accelerator.gradient_state._set_sync_gradients(last)
            self.accelerator.backward(loss)  # and it updates the weights
        else:
            torch.autograd.backward(loss)

    def _norm(self, term: Tensor) -> float:
        """Return the norm of a term's gradient with respect to the network's parameters, over all processes."""
        trained = [parameter for parameter in self.bare.model.parameters() if parameter.requires_grad]
        if not term.requires_grad:
            return 0.0
        found = torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True)
        flat = [
            (torch.zeros_like(parameter) if gradient is None else gradient).flatten()
            for parameter, gradient in zip(trained, found, strict=True)
        ]
        return float(ranks.mean(torch.cat(flat)).norm())

    def update(self) -> None:
        """Move the weights along the gradient."""
        if self.clip is not None:
            if self.sharded:
                self.accelerator.clip_grad_norm_(self.step.parameters(), self.clip)
            else:
                nn.utils.clip_grad_norm_(self.bare.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _check(terms: dict[str, Tensor]) -> None:
    """Refuse terms that are not one number each.

    Raises:
        StageError: with the term.
    """
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            found = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            raise StageError(
                f"the loss of a batch is one number, the mean over its samples; for the term {name} came {found}"
            )
