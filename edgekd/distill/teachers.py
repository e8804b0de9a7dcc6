"""Teachers while a student learns: asked in every step, or read from what was kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from edgekd import models
from edgekd.artifact import Artifact
from edgekd.distill import targets
from edgekd.distill.layers import Taps
from edgekd.training import blackbox
from edgekd.training.engine import lay_out, place
from edgekd.training.objective import Batch

ONLY = "teacher"
"""The name of a teacher that has no other beside it."""


@dataclass(frozen=True)
class Seen:
    """What a teacher makes of a batch: answers (B, K), and what its layers give, by their names."""

    answers: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


class Teacher(Protocol):
    """A frozen network that is asked about batches."""

    name: str

    def __call__(self, batch: Batch) -> Seen:
        """Return what it makes of the view that the student saw."""


class Live:
    """A teacher that is run.

    Args:
        model: on the CPU; it is frozen, laid out and moved.
        layers: whose features are asked for.
    """

    def __init__(
        self, name: str, model: nn.Module, example: Tensor, layers: Sequence[str], accelerator: Accelerator
    ) -> None:
        self.name = name
        # Entering autocast takes a tenth of a small teacher's time, also where it lowers nothing.
        self._lowered = nullcontext if accelerator.mixed_precision == "no" else accelerator.autocast
        self._model = frozen(model)
        self._layout = lay_out(self._model, example)
        self._model = place(self._model, accelerator.device, self._layout)
        self._taps = Taps(self._model, layers, name)

    def __call__(self, batch: Batch) -> Seen:
        """Return its answers and features, without gradients."""
        with torch.no_grad(), self._lowered():
            answers: Tensor = self._model(batch.inputs.contiguous(memory_format=self._layout))
        return Seen(answers.float(), self._taps.take())


class Kept:
    """A teacher whose answers were kept."""

    def __init__(self, name: str, source: Artifact, device: torch.device) -> None:
        self.name, self._answers = name, targets.Reader(source, device)

    def __call__(self, batch: Batch) -> Seen:
        """Return its answers to these views of these samples."""
        return Seen(self._answers(batch.samples, batch.view))


def frozen(model: nn.Module) -> nn.Module:
    """Return a module in evaluation mode whose parameters take no gradient."""
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Source:
    """Where a teacher comes from.

    Args:
        model: on the CPU; None where its answers are kept, which is where nothing else of it is asked for.
        example: two samples as it takes them.
        kept: its answers.
    """

    name: str
    model: nn.Module | None
    example: Tensor
    kept: Artifact | None = None

    @property
    def role(self) -> str:
        """What messages call it: "teacher", or "teacher NAME" of several."""
        return self.name if self.name == ONLY else f"teacher {self.name}"


def sources(artifacts: Mapping[str, Artifact]) -> list[Source]:
    """Return the teachers among a step's artifacts, in their order.

    Args:
        artifacts: by role: "teacher" or "teacher/NAME", and "targets" or "targets/NAME" where the answers are kept.
    """
    found = []
    for role, source in artifacts.items():
        kind, _, own = role.partition("/")
        if kind == "teacher":
            kept = artifacts.get(f"targets/{own}" if own else "targets")
            model = blackbox.load(source) if kept is None else None
            found.append(Source(own or ONLY, model, models.example(blackbox.input_shape(source)), kept))
    return found


def opened(source: Source, layers: Sequence[str], accelerator: Accelerator) -> Teacher:
    """Return a teacher to be asked: what is kept of it is read instead of running it."""
    if source.kept is not None:
        return Kept(source.name, source.kept, accelerator.device)
    assert source.model is not None
    return Live(source.name, source.model, source.example, layers, accelerator)
