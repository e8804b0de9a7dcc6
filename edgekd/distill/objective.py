"""The objective of distillation: the task's own loss and any number of terms that teachers give."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgekd.distill import fusion
from edgekd.distill.adapters import adapter
from edgekd.distill.layers import Layer, Taps, usual
from edgekd.distill.teachers import Seen, Teacher
from edgekd.errors import StageError
from edgekd.stages.distill import Options
from edgekd.tasks import Task
from edgekd.terms import FAMILIES, Pair, Term
from edgekd.training.objective import Batch, Labels, Objective

LABELS = "labels"


@dataclass(frozen=True)
class Wanted:
    """A term with the layers that it is about, found where the recipe names none."""

    term: Term
    pairs: tuple[Pair, ...]


class OnFeatures(nn.Module):
    """A loss between layers of the student and of one teacher, with what is learned for it.

    Args:
        student, teacher: the shapes of the layers, without the batch axis, by their names.
        samples: of the training split.

    Raises:
        StageError: no adapter bridges the shapes.
    """

    def __init__(
        self,
        wanted: Wanted,
        student: Mapping[str, tuple[int, ...]],
        teacher: Mapping[str, tuple[int, ...]],
        samples: int,
    ) -> None:
        super().__init__()
        self._wanted = wanted
        self._function = function_of(wanted.term)
        pairs = [(student[pair.student], teacher[pair.teacher]) for pair in wanted.pairs]
        try:
            self.parts = nn.ModuleList(self._parts(pairs, samples))
        except ValueError as error:
            told = "; ".join(f"student {pair.student}, teacher {pair.teacher}" for pair in wanted.pairs)
            raise StageError(f"distill.losses: {wanted.term.loss.name} on {told}: {error}") from error

    def _parts(self, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], samples: int) -> list[nn.Module]:
        loss = self._wanted.term.loss
        if loss.parts:
            made = function_of(self._wanted.term, "_parts")
            options = self._wanted.term.arguments(loss.making)
            if loss.together:
                return [made([own for own, _ in pairs], [other for _, other in pairs], samples=samples, **options)]
            return [made(own, other, samples=samples, **options) for own, other in pairs]
        if loss.equal_shapes:
            return [adapter(own, other) or nn.Identity() for own, other in pairs]
        return []

    def forward(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], batch: Batch, reduction: str
    ) -> Tensor:
        """Return the loss, summed over the pairs of layers."""
        own = [student[pair.student] for pair in self._wanted.pairs]
        others = [teacher[pair.teacher] for pair in self._wanted.pairs]
        if self._wanted.term.loss.together:
            return self._one(own, others, 0, batch, reduction)
        values = [
            self._one(mine, theirs, index, batch, reduction)
            for index, (mine, theirs) in enumerate(zip(own, others, strict=True))
        ]
        return torch.stack(values).sum(0)

    def _one(self, own: Any, other: Any, index: int, batch: Batch, reduction: str) -> Tensor:
        term = self._wanted.term
        given: dict[str, Any] = {"student": own, "teacher": other}
        if term.loss.parts:
            given = self.parts[index](own, other, samples=batch.samples.to(batch.inputs.device), targets=batch.targets)
        elif self.parts:
            given["student"] = self.parts[index](own)
        if term.loss.targets:
            given["targets"] = batch.targets
        value: Tensor = self._function(**given, **term.arguments(term.loss.own), reduction=reduction)
        return value


class Distillation(Objective):
    """Labels and teachers. Layers' features are tapped while the networks run.

    Args:
        model: the student; `close` takes the taps off again.
        teachers: none where no term asks any.
        lessons: the terms with their layers, as each teacher has them.
        shapes: of the layers by their names, without the batch axis: the student's, then each teacher's.
        samples: of the training split.

    Raises:
        StageError: shapes cannot be bridged.
    """

    def __init__(
        self,
        options: Options,
        model: nn.Module,
        teachers: Sequence[Teacher],
        lessons: Sequence[Sequence[Wanted]],
        shapes: Sequence[Mapping[str, tuple[int, ...]]],
        task: Task,
        *,
        samples: int,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self._options = options
        self._labels_weight = options.labels_weight()
        self._labels = Labels(task, label_smoothing=label_smoothing) if self._labels_weight else None
        self._teachers = tuple(teachers)
        self._terms = dict(zip(unique([term.loss.name for term in options.terms()]), options.terms(), strict=True))
        self._calls = {
            name: partial(function_of(term), **term.arguments(term.loss.own)) for name, term in self._terms.items()
        }
        self._taps = Taps(model, [pair.student for each in lessons for one in each for pair in one.pairs], "student")
        own, *others = shapes
        self.features = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    OnFeatures(each[index], own, other, samples) for each, other in zip(lessons, others, strict=True)
                )
                for index, (name, term) in enumerate(self._terms.items())
                if term.loss.on == "features"
            }
        )

    def forward(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms: "labels", and each loss by its name."""
        found = {}
        if self._labels is not None:
            found[LABELS] = _weighted(self._labels_weight, self._labels(outputs, batch)[LABELS])
        if not self._terms:
            return found
        student, seen = self._taps.take(), [teacher(batch) for teacher in self._teachers]
        answers = torch.stack([one.answers for one in seen]) if len(seen) > 1 else seen[0].answers[None]
        for name, term in self._terms.items():
            value = (
                self._on_answers(name, outputs, answers, batch)
                if term.loss.on == "answers"
                else self._on_features(name, student, seen, answers, outputs, batch)
            )
            found[name] = _weighted(term.weighting.at(batch.progress), value)
        return found

    def close(self) -> None:
        """Take the taps off the student."""
        self._taps.close()

    def _on_answers(self, name: str, outputs: Tensor, answers: Tensor, batch: Batch) -> Tensor:
        """Return a loss between the student's answers and those of all teachers as one."""
        term, teacher = self._terms[name], answers[0]
        if len(answers) > 1:
            temperature = float(getattr(term.weighting, "temperature", 1.0))
            teacher = fusion.fused(answers, self._weights(answers, outputs, batch, temperature), temperature)
        more = {"targets": batch.targets} if term.loss.targets else {}
        value: Tensor = self._calls[name](outputs, teacher, **more)
        return value

    def _on_features(
        self,
        name: str,
        student: Mapping[str, Tensor],
        seen: Sequence[Seen],
        answers: Tensor,
        outputs: Tensor,
        batch: Batch,
    ) -> Tensor:
        """Return a loss between layers: with several teachers the weighted mean over them."""
        modules = self.features[name]
        assert isinstance(modules, nn.ModuleList)
        if len(seen) == 1:
            value: Tensor = modules[0](student, seen[0].features, batch, "mean")
            return value
        weights = self._weights(answers, outputs, batch, 1.0)
        each = torch.stack([one(student, of.features, batch, "none") for one, of in zip(modules, seen, strict=True)])
        return (weights * each).sum(0).mean()

    def _weights(self, answers: Tensor, outputs: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Return each teacher's weight for each sample (M, B)."""
        match self._options.fusion:
            case "weighted":
                shares = self._options.shares or {}
                return fusion.weighted(answers, [shares[teacher.name] for teacher in self._teachers])
            case "entropy":
                return fusion.entropy(answers)
            case "confidence":
                return fusion.confidence(answers, torch.stack([_wrong(one, batch) for one in answers]))
            case "gradient":
                return fusion.gradient(answers, outputs, temperature)
            case _:
                return fusion.mean(answers)


def _weighted(weight: float, value: Tensor) -> Tensor:
    return value if weight == 1 else weight * value


def _wrong(answers: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy of answers (B, K) with the labels, (B,)."""
    own = cross_entropy(answers, batch.targets, reduction="none")
    if batch.mixing is None:
        return own
    other = cross_entropy(answers, batch.targets[batch.mixing.partner], reduction="none")
    return batch.mixing.share * own + (1 - batch.mixing.share) * other


def function_of(term: Term, suffix: str = "") -> Callable[..., Any]:
    """Return a term's loss, or with a suffix what stands beside it in its file."""
    module = importlib.import_module(f"edgekd.{FAMILIES.replace('/', '.')}.{term.loss.family}")
    found: Callable[..., Any] = getattr(module, term.loss.name + suffix)
    return found


def wanted_layers(
    options: Options, student: Sequence[Layer], teacher: Sequence[Layer], role: str
) -> tuple[Wanted, ...]:
    """Return the terms with their layers; where the recipe names none, those that the paper would take.

    Args:
        student, teacher: what `layers` returns of the networks.
        role: whose network the teacher's is, for messages.
    """
    found = []
    for term in options.terms():
        pairs = term.layers or ()
        if term.loss.on == "features" and not pairs:
            kind = term.loss.default_layer
            pairs = (Pair(student=usual(student, kind, "student"), teacher=usual(teacher, kind, role)),)
        found.append(Wanted(term, pairs))
    return tuple(found)


def unique(names: Sequence[str]) -> list[str]:
    """Return names of terms that differ: a second "attention" becomes "attention-2"."""
    return [
        name if (before := names[:index].count(name)) == 0 else f"{name}-{before + 1}"
        for index, name in enumerate(names)
    ]
