"""Losses on the answers: what the teacher says of each class, beyond which one it would choose.

In all of them z are logits (B, K) of B samples and K classes, and p = softmax(z / T) at temperature T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, mse_loss

from edgekd.distill.losses.precision import dimensions, not_negative, positive, precise, reduce, same_shape
from edgekd.options import NonNegative, Reduction, Temperature

ON = "answers"
EQUAL_SHAPES = ("kd", "standardized_kd", "dkd", "dist", "logit_mse")
SETTINGS: Mapping[str, Mapping[str, float]] = {
    # RepDistiller and mdistiller, CIFAR-100: 0.1 cross-entropy + 0.9 KD at T = 4.
    "kd": {"weight": 0.9, "labels": 0.1},
    # The authors' command for CIFAR-100 (T = 2, weight 9) beside mdistiller's 0.1 cross-entropy.
    "standardized_kd": {"weight": 9.0, "labels": 0.1},
    # mdistiller: cross-entropy + alpha TCKD + beta NCKD, the whole rising over the first 20 epochs.
    "dkd": {"weight": 1.0},
    # The authors' CIFAR-100 setting: cross-entropy + 2 DIST at tau = 4.
    "dist": {"weight": 2.0},
    # Knowledge-Distillation-Zoo, CIFAR-10 ("logits").
    "logit_mse": {"weight": 0.1},
}

FEW = 16


def kd(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: Temperature = 4.0,
    direction: Literal["forward", "reverse", "js"] = "forward",
    standardize: bool = False,
    legacy_mean: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return T^2 times the divergence of the softened answers (Hinton et al. 2015, arXiv:1503.02531, section 2).

        forward  T^2 KL(p_t || p_s) = T^2 sum_k p_t[k] (log p_t[k] - log p_s[k])
        reverse  T^2 KL(p_s || p_t): the student may leave out what the teacher says, but add nothing
        js       T^2 (KL(p_t || m) + KL(p_s || m)) / 2 with m = (p_t + p_s) / 2; symmetric, at most T^2 log 2

    The sum is over classes and the mean over samples. T^2 keeps the gradient's size when T changes: for T -> infinity
    the forward and reverse values go to |c_s - c_t|^2 / (2K) with the centred logits c = z - mean(z), js to a quarter
    of that.

    Args:
        student: logits (B, K).
        teacher: logits (B, K); no gradient flows into them.
        temperature: T.
        direction: which divergence.
        standardize: logit standardisation (Sun et al. 2024, arXiv:2403.01427): each sample's logits are centred and
            divided by their standard deviation over the classes (sqrt of the mean square; the authors' code divides by
            K - 1, which is a temperature of sqrt(K / (K - 1)) times ours) before the temperature, so that the student
            need not match the teacher's scale. Logits that are all equal count as zeros.
        legacy_mean: divide by K as well, which is what a KL "mean" over all elements does. It weakens the teacher by
            the number of classes and is wrong; it is here to reproduce results that were obtained that way.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    positive(temperature=temperature)
    student, teacher = _logits(student, teacher, "kd")
    if standardize:
        student, teacher = (_direction(z) * math.sqrt(z.shape[-1]) for z in (student, teacher))
    factor = temperature**2 / (student.shape[-1] if legacy_mean else 1)
    log_student, log_teacher = _soften(student, temperature), _soften(teacher, temperature)
    if direction == "forward" and reduction == "mean":  # the usual case in three operations fewer, forth and back
        return (log_teacher.exp() * (factor / len(student)) * (log_teacher - log_student)).sum()
    return reduce(_divergence(log_student, log_teacher, direction) * factor, reduction)


def standardized_kd(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: Temperature = 2.0,
    direction: Literal["forward", "reverse", "js"] = "forward",
    reduction: Reduction = "mean",
) -> Tensor:
    """Return `kd` of standardised logits with the temperature of its paper (Sun et al. 2024, arXiv:2403.01427).

    Args:
        student: logits (B, K).
        teacher: logits (B, K); no gradient flows into them.
        temperature: T, of logits whose standard deviation is 1.
        direction: which divergence.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    return kd(student, teacher, temperature=temperature, direction=direction, standardize=True, reduction=reduction)


def dkd(
    student: Tensor,
    teacher: Tensor,
    *,
    targets: Tensor,
    temperature: Temperature = 4.0,
    alpha: NonNegative = 1.0,
    beta: NonNegative = 8.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return T^2 (alpha TCKD + beta NCKD), decoupled distillation (Zhao et al. 2022, arXiv:2203.08679, eq. 7).

    With y the true class, TCKD is the KL divergence of (p[y], 1 - p[y]), and NCKD that of the other classes among
    themselves, p[k] / (1 - p[y]) for k != y. KL(p_t || p_s) = TCKD + (1 - p_t[y]) NCKD: plain distillation is blind to
    the other classes where the teacher is sure, and beta gives them a weight of their own.

    Args:
        student: logits (B, K), K >= 3: the one other class of two has nothing to be compared with.
        teacher: logits (B, K); no gradient flows into them.
        targets: true classes (B,), integers.
        temperature: T.
        alpha: weight of TCKD.
        beta: weight of NCKD; published are 2 to 8 by pair, 8 for the widest gap.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    positive(temperature=temperature)
    not_negative(alpha=alpha, beta=beta)
    student, teacher = _logits(student, teacher, "dkd", classes=3)
    if targets.shape != student.shape[:1] or targets.is_floating_point():
        raise ValueError(
            f"dkd needs targets of shape ({len(student)},), one class per sample, "
            f"not {targets.dtype} of shape {tuple(targets.shape)}"
        )
    log_student, log_teacher = _soften(student, temperature), _soften(teacher, temperature)
    parts = alpha * _tckd(log_student, log_teacher, targets) + beta * _nckd(log_student, log_teacher, targets)
    return reduce(parts * temperature**2, reduction)


def dist(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: Temperature = 4.0,
    beta: NonNegative = 1.0,
    gamma: NonNegative = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return T^2 (beta inter + gamma intra), relations in place of values (Huang et al. 2022, arXiv:2205.10536).

        inter = 1 - mean_b r(p_s[b, :], p_t[b, :])    of one sample between the classes
        intra = 1 - mean_k r(p_s[:, k], p_t[:, k])    of one class between the samples of the batch

    with r the Pearson correlation. T^2 is in the authors' code, not in their equations; at T = 1 it is nothing. Where
    all values are equal, r is taken as 0. A batch of one sample has no intra relation and pays gamma for it.

    Args:
        student: logits (B, K), K >= 2.
        teacher: logits (B, K); no gradient flows into them.
        temperature: T; published are 4 for CIFAR and 1 for ImageNet.
        beta: weight of inter.
        gamma: weight of intra.
        reduction: "none" gives (B,): each sample's own inter, and intra, which belongs to all, in each of them, so that
            the mean is right.
    """
    positive(temperature=temperature)
    not_negative(beta=beta, gamma=gamma)
    student, teacher = _logits(student, teacher, "dist", classes=2)
    log_student, log_teacher = _soften(student, temperature), _soften(teacher, temperature)
    inter = 1 - _correlation(log_student, log_teacher)
    intra = 1 - _correlation(log_student.mT, log_teacher.mT).mean()
    return reduce((beta * inter + gamma * intra) * temperature**2, reduction)


def logit_mse(student: Tensor, teacher: Tensor, *, centred: bool = False, reduction: Reduction = "mean") -> Tensor:
    """Return the mean over classes of (z_s[k] - z_t[k])^2 (Ba & Caruana 2014, arXiv:1312.6184, there half the sum).

    Args:
        student: logits (B, K).
        teacher: logits (B, K); no gradient flows into them.
        centred: first take away each sample's mean logit, which no answer depends on.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    student, teacher = _logits(student, teacher, "logit_mse")
    if centred:
        student, teacher = (z - z.mean(-1, keepdim=True) for z in (student, teacher))
    if reduction == "mean":
        return mse_loss(student, teacher)
    return reduce((student - teacher).square().mean(-1), reduction)


def _logits(student: Tensor, teacher: Tensor, name: str, *, classes: int = 1) -> tuple[Tensor, ...]:
    """Return both logits, checked and wide enough, the teacher's without gradient."""
    dimensions(student, "B, K", name)
    same_shape(student, teacher, name)
    if student.shape[-1] < classes:
        raise ValueError(f"{name} needs {classes} classes at least, not {student.shape[-1]}")
    return precise(student, teacher.detach())


def _soften(logits: Tensor, temperature: float) -> Tensor:
    """Return log softmax(z / T) of logits (..., K)."""
    if logits.ndim == 2 and logits.shape[-1] < FEW and logits.device.type == "cpu":
        # Over short rows torch's softmax is several times as slow as over columns.
        return log_softmax(logits.mT.contiguous() / temperature, dim=0).mT
    return log_softmax(logits / temperature, dim=-1)


def _divergence(log_student: Tensor, log_teacher: Tensor, direction: str) -> Tensor:
    match direction:
        case "forward":
            return _kl(log_teacher, log_student)
        case "reverse":
            return _kl(log_student, log_teacher)
        case "js":
            log_middle = torch.logaddexp(log_student, log_teacher) - math.log(2)
            return (_kl(log_teacher, log_middle) + _kl(log_student, log_middle)) / 2
        case _:
            raise ValueError(f'direction is "forward", "reverse" or "js", not {direction!r}')


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) over the last axis."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _tckd(log_student: Tensor, log_teacher: Tensor, targets: Tensor) -> Tensor:
    """Return the divergence (B,) of "the true class or another one", without T^2."""
    student, teacher = (
        torch.stack((own, others.logsumexp(-1)), dim=-1)
        for own, others in (_split(log_student, targets), _split(log_teacher, targets))
    )
    return _kl(teacher, student)


def _nckd(log_student: Tensor, log_teacher: Tensor, targets: Tensor) -> Tensor:
    """Return the divergence (B,) of the other classes among themselves, without T^2."""
    student, teacher = (log_softmax(_split(log, targets)[1], dim=-1) for log in (log_student, log_teacher))
    return _kl(teacher, student)


def _split(log: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the true class's column (B,) and the others' (B, K - 1). Taken by index: a mask would wait for the GPU."""
    own = targets.to(torch.int64)[:, None]
    others = torch.arange(log.shape[-1] - 1, device=log.device).expand(len(log), -1)
    return log.gather(-1, own)[:, 0], log.gather(-1, others + (others >= own))


def _correlation(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return the Pearson correlation over the last axis of two sets of probabilities given by their logarithms.

    It does not change with a factor, so the largest is made 1: a class that is improbable everywhere keeps its digits.
    """
    a, b = ((log - log.detach().amax(-1, keepdim=True)).exp() for log in (log_a, log_b))
    return (_direction(a) * _direction(b)).sum(-1)


def _direction(values: Tensor) -> Tensor:
    """Return values less their mean over the last axis, divided by their length.

    Where all are equal up to rounding there is no direction: what is left is not divided, so that neither the value nor
    the gradient is blown-up rounding.
    """
    centred = values - values.mean(-1, keepdim=True)
    squares = centred.square().sum(-1, keepdim=True)
    rounding = 8 * torch.finfo(values.dtype).eps * values.detach().abs().amax(-1, keepdim=True)
    return centred / squares.where(squares > rounding.square() * values.shape[-1], 1).sqrt()
