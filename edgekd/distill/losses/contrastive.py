"""Losses that tell a sample's teacher from the other samples': mutual information by contrast."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy, softplus

from edgekd.distill.adapters import VectorAdapter
from edgekd.distill.losses.precision import dimensions as require
from edgekd.distill.losses.precision import inner, positive, precise, reduce, same_shape, unit
from edgekd.options import Reduction, Share, Temperature

ON = "features"
DEFAULT_LAYER = "embedding"
LABELLED = ("crd",)
SETTINGS = {
    # RepDistiller, CIFAR-100, beside the whole cross-entropy.
    "crd": {"weight": 0.8},
    # No setting is published for this one in distillation.
    "infonce": {"weight": 1.0},
}


def infonce(
    student: Tensor,
    teacher: Tensor,
    *,
    projected: Tensor | None = None,
    temperature: Temperature = 0.07,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return InfoNCE with the other samples of the batch as negatives (van den Oord et al. 2018, arXiv:1807.03748).

        L_i = -log( exp(cos(s_i, t_i) / T) / sum_j exp(cos(s_i, t_j) / T) )

    It bounds the mutual information of the two embeddings from below, I(s; t) >= log B - E[L], and so can show log B at
    most: a larger batch says more. It is not CRD: no memory, B - 1 negatives, and those of the sample's own class are
    among them. It changes when every sample is there twice.

    Args:
        student: embeddings (B, D), of any length.
        teacher: embeddings (B, D); no gradient flows into them.
        projected: the teacher's embeddings again where their projection is learned: they take the teacher's place, and
            gradient flows into them. Their maker detaches what it projects.
        temperature: T.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    positive(temperature=temperature)
    student, teacher = _embeddings(student, teacher.detach() if projected is None else projected, "infonce")
    similarities = inner(unit(student), unit(teacher)) / temperature
    own = torch.arange(len(student), device=student.device)
    return reduce(cross_entropy(similarities, own, reduction="none"), reduction)


def infonce_parts(
    student: tuple[int, ...], teacher: tuple[int, ...], *, samples: int, dimensions: PositiveInt = 128
) -> Projections:
    """Return what `infonce` learns: a linear projection of each network's features.

    Args:
        student: shape of the student's features without the batch axis: (D), or (C, H, W), whose mean over height and
            width is taken.
        teacher: the teacher's, of either kind.
        samples: of the training split; nothing is kept of them.
        dimensions: of the embeddings.
    """
    del samples
    return Projections(student, teacher, dimensions)


def crd(
    student: Tensor,
    teacher: Tensor,
    *,
    student_own: Tensor,
    teacher_own: Tensor,
    student_others: Tensor,
    teacher_others: Tensor,
    contrast: Tensor,
    projected: Tensor | None = None,
    temperature: Temperature = 0.07,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return contrastive representation distillation (Tian et al. 2020, arXiv:1910.10699, section 3).

        L_i = l(s_i, teacher's memory) + l(t_i, student's memory)
        l(a_i, memory) = -log h(a_i, m_i) - sum_{k in contrast i} log(1 - h(a_i, m_k))
        h(a, m) = e(a, m) / (e(a, m) + K_i),  e(a, m) = exp(cos(a, m) / T) / E,  K_i samples in contrast i

    With Z = N E this is the paper's h: exp(cos / T) / Z against K_i draws from the noise 1 / N. The authors' code takes
    Z from the first batch, while the memory is random directions, and keeps it. What that estimates has a closed form,
    which is our E: the mean of exp(cos / T) over all directions, a constant of D and T. The loss changes when every
    sample is there twice.

    Args:
        student: embeddings s (B, D), of any length.
        teacher: embeddings t (B, D); no gradient flows into them.
        student_own: the samples' rows of the student's memory, unit vectors (B, D).
        teacher_own: the samples' rows of the teacher's memory (B, D).
        student_others: rows of other samples (K, D), which the whole batch shares.
        teacher_others: the teacher's rows of the same samples (K, D).
        contrast: bool (B, K), which of the others are negatives of which sample.
        projected: the teacher's embeddings where their projection is learned, as for `infonce`.
        temperature: T.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    positive(temperature=temperature)
    student, teacher = _embeddings(student, teacher.detach() if projected is None else projected, "crd")
    for own, others in ((student_own, student_others), (teacher_own, teacher_others)):
        same_shape(student, own, "crd")
        if others.shape != (contrast.shape[-1], own.shape[1]) or contrast.shape != (len(own), len(others)):
            raise ValueError(
                f"crd needs {len(own)} samples' memories (K, {own.shape[1]}) and contrasts ({len(own)}, K), "
                f"not {tuple(others.shape)} and {tuple(contrast.shape)}"
            )
    of_students = _estimation(student, teacher_own, teacher_others, contrast, temperature)
    of_teachers = _estimation(teacher, student_own, student_others, contrast, temperature)
    return reduce(of_students + of_teachers, reduction)


def crd_parts(
    student: tuple[int, ...],
    teacher: tuple[int, ...],
    *,
    samples: int,
    dimensions: PositiveInt = 128,
    negatives: PositiveInt = 16384,
    momentum: Share = 0.5,
) -> Memory:
    """Return what `crd` learns and remembers: projections, and an embedding of every training sample.

    Args:
        student: shape of the student's features without the batch axis: (D), or (C, H, W), whose mean over height and
            width is taken.
        teacher: the teacher's, of either kind.
        samples: N, of the training split.
        dimensions: of the embeddings.
        negatives: K, drawn for each batch; N - 1 where that is less, since there are no more others.
        momentum: of the memory: what is kept of a row when its sample is seen again.
    """
    return Memory(Projections(student, teacher, dimensions), samples, dimensions, negatives, momentum)


class Projections(nn.Module):
    """A linear projection of the student's features and one of the teacher's, into one space.

    Args:
        student: shape (D) or (C, H, W) of the student's features.
        teacher: shape of the teacher's.
        dimensions: of the embeddings.
    """

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...], dimensions: int) -> None:
        super().__init__()
        positive(dimensions=dimensions)
        for who, shape in (("student", student), ("teacher", teacher)):
            if len(shape) not in {1, 3}:
                raise ValueError(f"a contrast needs vectors (D) or maps (C, H, W); the {who}'s features are {shape}")
        self.student = VectorAdapter(student[0], dimensions)
        self.teacher = VectorAdapter(teacher[0], dimensions)

    def forward(self, student: Tensor, teacher: Tensor, *, samples: Tensor, targets: Tensor) -> dict[str, Any]:
        """Return the arguments of `infonce`: embeddings of length 1."""
        embedded = precise(self.student(student), self.teacher(teacher.detach()))
        of_student, of_teacher = map(unit, embedded)
        return {"student": of_student, "teacher": of_teacher.detach(), "projected": of_teacher}


class Memory(nn.Module):
    """Projections, and a memory of each network's embedding of every training sample: 2 x (N, D), unit vectors.

    Rows start in random directions. In training, a forward moves its samples' rows, without gradient, to
    unit(momentum row + (1 - momentum) embedding), after the loss's arguments have been taken from them.

    The negatives are K samples for the whole batch, drawn evenly and with replacement from torch's global generator on
    the CPU. Of these a sample's own are the K_i of another class. The paper draws K from the other classes for each
    sample; the draws are independent and even over those either way, but a step here costs a product of (B, D) and
    (K, D) and no copy of B K rows. A sample's class is known once it has been seen: until then its rows are random, and
    it counts as of another class.

    Args:
        projections: of the features.
        samples: N.
        dimensions: D, of the embeddings.
        negatives: K, at most N - 1.
        momentum: of the memory, in [0, 1].
    """

    student_memory: Tensor
    teacher_memory: Tensor
    classes: Tensor

    def __init__(
        self, projections: Projections, samples: int, dimensions: int, negatives: int, momentum: float
    ) -> None:
        super().__init__()
        positive(negatives=negatives)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is a share from 0 to 1, not {momentum}")
        if samples < 2:
            raise ValueError(f"crd contrasts samples with each other; the training split has {samples}")
        self.projections = projections
        self.register_buffer("student_memory", unit(torch.randn(samples, dimensions)))
        self.register_buffer("teacher_memory", unit(torch.randn(samples, dimensions)))
        self.register_buffer("classes", torch.full((samples,), -1))
        self._negatives, self._momentum = min(negatives, samples - 1), momentum

    def forward(self, student: Tensor, teacher: Tensor, *, samples: Tensor, targets: Tensor) -> dict[str, Any]:
        """Return the arguments of `crd`."""
        if targets.shape != samples.shape:
            raise ValueError(f"crd needs a class of each sample (B,), not targets {tuple(targets.shape)}")
        given: dict[str, Any] = self.projections(student, teacher, samples=samples, targets=targets)
        drawn = torch.randint(len(self.classes), (self._negatives,)).to(self.classes.device)
        samples = samples.to(self.classes.device)
        if self.training:
            seen, labels = _everywhere(samples, targets)
            self.classes[seen] = labels
        given |= {
            "student_own": self.student_memory[samples],
            "teacher_own": self.teacher_memory[samples],
            "student_others": self.student_memory[drawn],
            "teacher_others": self.teacher_memory[drawn],
            "contrast": (targets[:, None] != self.classes[drawn]) & (samples[:, None] != drawn),
        }
        if self.training:
            seen, of_student, of_teacher = _everywhere(samples, given["student"], given["teacher"])
            self._remember(self.student_memory, seen, of_student)
            self._remember(self.teacher_memory, seen, of_teacher)
        return given

    def _remember(self, memory: Tensor, samples: Tensor, seen: Tensor) -> None:
        moved = self._momentum * memory[samples] + (1 - self._momentum) * seen.detach()
        memory[samples] = unit(moved)


def _everywhere(*rows: Tensor) -> tuple[Tensor, ...]:
    """Return rows (B, ...) of this process and of all others that train with it: every memory remembers all samples."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return tuple(row.detach() for row in rows)
    found = []
    for row in rows:
        parts = [torch.empty_like(row) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, row.detach().contiguous())
        found.append(torch.cat(parts))
    return tuple(found)


def _embeddings(student: Tensor, teacher: Tensor, name: str) -> tuple[Tensor, ...]:
    """Return embeddings of one shape (B, D) at length 1, wide enough."""
    require(student, "B, D", name)
    same_shape(student, teacher, name)
    return tuple(map(unit, precise(student, teacher)))


def _estimation(anchor: Tensor, own: Tensor, others: Tensor, contrast: Tensor, temperature: float) -> Tensor:
    """Return each anchor's loss of noise-contrastive estimation (B,), from the logits of h: log(e / K_i)."""
    counts = contrast.sum(1, dtype=anchor.dtype)
    base = counts.log() + _log_mean_exp(anchor.shape[1], temperature)
    logit = (anchor * own).sum(1) / temperature - base
    logits = inner(anchor, others.to(anchor.dtype)) / temperature - base[:, None]
    return softplus(-logit) + softplus(logits).masked_fill(~contrast, 0).sum(1)


@lru_cache
def _log_mean_exp(dimensions: int, temperature: float) -> float:
    """Return log E[exp(cos / T)] of two random directions in D dimensions.

    E = sum_k (1 / 2T)^(2k) Gamma(D/2) / (k! Gamma(k + D/2)): the Bessel series of the von Mises-Fisher distribution.
    Its largest term comes before k = 1 / 2T, and from k = 1 / T on each is less than a quarter of the one before.
    """
    half, log_factor = dimensions / 2, -2 * math.log(2 * temperature)
    terms = [
        k * log_factor + math.lgamma(half) - math.lgamma(k + 1) - math.lgamma(k + half)
        for k in range(int(1 / temperature) + 100)
    ]
    largest = max(terms)
    return largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
