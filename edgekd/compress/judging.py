"""What the loss says of a network before it is cut, on a few training batches and without a step of training."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from edgekd import tasks
from edgekd.data import Data
from edgekd.distill.distill import objective
from edgekd.distill.teachers import sources
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation
from edgekd.training import ranks
from edgekd.training.engine import accelerate, place, seed_everything
from edgekd.training.feeding import Feed, Shown
from edgekd.training.objective import Labels, Objective


@dataclass(frozen=True)
class Judge:
    """A network and a loss of it.

    Args:
        goal: its terms, which are added.
        shown: what it is computed on; each counts by its weight.
    """

    model: nn.Module
    goal: Objective
    shown: tuple[Shown, ...]

    def loss(self) -> float:
        """Return the mean loss; the network may have lost a block since."""
        with torch.no_grad():
            found = [one.weight * self._loss(one).double() for one in self.shown]
        return float(ranks.mean(torch.stack(found).sum())) / self._weight

    def products(self) -> dict[nn.Parameter, Tensor]:
        """Return |weight * gradient| of each parameter, of its shape, on the CPU: the mean over the batches.

        Each batch has its own absolute values: where a network has learned, its mean gradient is near zero and says
        little, and the batches' are not.
        """
        parameters = list(self.model.parameters())
        learning = [parameter.requires_grad for parameter in parameters]
        totals = [torch.zeros_like(parameter) for parameter in parameters]
        self.model.requires_grad_(True)
        try:
            for one in self.shown:
                gradients = torch.autograd.grad(self._loss(one), parameters, allow_unused=True)
                for total, parameter, gradient in zip(totals, parameters, gradients, strict=True):
                    if gradient is not None:
                        total.add_((parameter.detach() * gradient).abs(), alpha=one.weight)
        finally:
            for parameter, learns in zip(parameters, learning, strict=True):
                parameter.requires_grad_(learns)
        found = [ranks.mean(total / self._weight).cpu() for total in totals]
        return dict(zip(parameters, found, strict=True))

    @property
    def _weight(self) -> float:
        return sum(one.weight for one in self.shown)

    def _loss(self, one: Shown) -> Tensor:
        seed_everything(one.seed, one.batch.inputs.device)
        terms = self.goal(self.model(one.batch.inputs), one.batch)
        total: Tensor = reduce(operator.add, terms.values())
        return total


@contextmanager
def judged(
    model: nn.Module, inputs: Inputs, data: Data, teaching: Distillation | None, training: Network, batches: int
) -> Iterator[Judge]:
    """Give a judge of a network, in evaluation mode; it is on the CPU before and after.

    Args:
        teaching: whose loss it is; None: the task's. Of a distillation the losses on answers count, and the labels:
            what bridges two layers has not been learned yet.
        training: says how the batches are made.
        batches: how many; fewer where the training split has fewer.
    """
    accelerator = accelerate(inputs.compute, "fp32")
    feed = Feed(
        data.train, training, device=accelerator.device, layout=torch.contiguous_format, seed=inputs.seed,
        view_seed=inputs.data_seed,
    )  # fmt: skip
    goal = _goal(model, inputs, data, teaching, training, accelerator).eval()
    try:
        place(model.eval(), accelerator.device, torch.contiguous_format)
        yield Judge(model, goal, tuple(one for _, parts in islice(feed.steps(0, 0), batches) for one in parts))
    finally:
        feed.close()
        close = getattr(goal, "close", None)
        if close is not None:
            close()
        place(model, torch.device("cpu"), torch.contiguous_format)


def _goal(
    model: nn.Module,
    inputs: Inputs,
    data: Data,
    teaching: Distillation | None,
    training: Network,
    accelerator: Accelerator,
) -> Objective:
    task = tasks.load(inputs.task)
    if teaching is None:
        return Labels(task, label_smoothing=training.label_smoothing)
    teachers = sources(inputs.artifacts)
    options = _on_answers(teaching)
    return objective(options, model, teachers, data, task, training, accelerator=accelerator, seed=inputs.seed)


def _on_answers(teaching: Distillation) -> Distillation:
    """Return a distillation without its losses between layers; where nothing would be left, the usual one."""
    if teaching.losses is None:
        return teaching
    answering = tuple(one for one in teaching.losses if one.term().loss.on == "answers")
    if not answering and not teaching.labels_weight():
        return Distillation()
    return teaching.model_copy(update={"losses": answering, "labels": teaching.labels_weight()})
