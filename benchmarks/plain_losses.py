"""The losses as plain formulas, from the papers or as their authors' code has them, for benchmarks/losses.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLES = 50_000
"""Of the training split, which what crd remembers is as long as."""


# Losses on the answers: logits (B, K).


def kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    log_student = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_student, F.softmax(teacher / temperature, dim=1), reduction="batchmean") * temperature**2


def standardized_kd(student: Tensor, teacher: Tensor) -> Tensor:
    def standardize(z: Tensor) -> Tensor:
        return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True, correction=0) + 1e-7)

    return kd(standardize(student), standardize(teacher), 2.0)


def dkd(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float = 4.0) -> Tensor:
    own = F.one_hot(targets, student.shape[1]).bool()

    def two(z: Tensor) -> Tensor:
        p = F.softmax(z / temperature, dim=1)
        return torch.stack([(p * own).sum(1), (p * ~own).sum(1)], dim=1)

    tckd = F.kl_div(two(student).log(), two(teacher), reduction="batchmean")
    log_student, log_teacher = (F.log_softmax(z / temperature - 1000.0 * own, dim=1) for z in (student, teacher))
    nckd = F.kl_div(log_student, log_teacher.exp(), reduction="batchmean")
    return (tckd + 8.0 * nckd) * temperature**2


def dist(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    def correlation(a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1).mean()

    p, q = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    return temperature**2 * ((1 - correlation(p, q)) + (1 - correlation(p.T, q.T)))


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    return F.mse_loss(student, teacher)


# Losses on features: maps (B, C, H, W).


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    return F.mse_loss(student, teacher)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    def where(x: Tensor) -> Tensor:
        return F.normalize(x.pow(2).mean(1).flatten(1))

    return (where(student) - where(teacher)).pow(2).mean()


def mad(student: Tensor, teacher: Tensor) -> Tensor:
    return (F.normalize(student.flatten(1)) - F.normalize(teacher.flatten(1))).abs().sum(1).mean()


def mmd(student: Tensor, teacher: Tensor) -> Tensor:
    both = torch.cat([student.flatten(1), teacher.flatten(1)])
    n, distances = len(student), torch.cdist(both, both).square()
    different = ~torch.eye(2 * n, dtype=torch.bool, device=both.device)
    width = distances.detach()[different].median()
    kernel = torch.stack([torch.exp(-distances / (2 * b**2 * width)) for b in (0.25, 0.5, 1.0, 2.0, 4.0)]).mean(0)
    kernel = kernel * different
    within = (kernel[:n, :n].sum() + kernel[n:, n:].sum()) / (n * (n - 1))
    across = torch.exp(-distances[:n, n:, None] / (2 * width * student.new_tensor([0.25, 0.5, 1, 2, 4]) ** 2)).mean()
    return within - 2 * across


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = F.normalize(student.flatten(2), dim=2), F.normalize(teacher.flatten(2), dim=2)
    return (t @ t.mT).pow(2).mean() + (s @ s.mT).pow(2).mean() - 2 * (s @ t.mT).pow(2).mean()


def vid(student: Tensor, teacher: Tensor, parts: Any, *_: Tensor) -> Tensor:
    variance = (torch.log(1 + torch.exp(parts.raw_variance)) + 1e-5)[:, None, None]
    return 0.5 * ((teacher - parts.mean(student)).pow(2) / variance + torch.log(variance)).mean()


def reviewkd(student: Sequence[Tensor], teacher: Sequence[Tensor], parts: Any, *_: Tensor) -> Tensor:
    loss, deeper = student[0].new_zeros(()), None
    for own, other, fusion in reversed(list(zip(student, teacher, parts.fusions, strict=True))):
        fused = fusion.narrow(own)
        if deeper is not None:
            shares = fusion.attention(torch.cat([fused, deeper], dim=1))
            fused = fused * shares[:, 0:1] + deeper * shares[:, 1:2]
        deeper, wide = fused, fusion.widen(fused)
        each, weight, whole = F.mse_loss(wide, other), 1.0, 1.0
        for size in (4, 2, 1):
            weight /= 2
            each = each + weight * F.mse_loss(F.adaptive_avg_pool2d(wide, size), F.adaptive_avg_pool2d(other, size))
            whole += weight
        loss = loss + each / whole
    return loss


# Losses on relations: features (B, ...), flattened.


def sp(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = student.flatten(1), teacher.flatten(1)
    return (F.normalize(s @ s.T) - F.normalize(t @ t.T)).pow(2).mean()


def cc(student: Tensor, teacher: Tensor) -> Tensor:
    def kernel(x: Tensor) -> Tensor:
        u = F.normalize(x.flatten(1))
        cosines = u @ u.T
        return math.exp(-0.8) * (1 + 0.8 * cosines + 0.8**2 / 2 * cosines**2)

    return (kernel(student) - kernel(teacher)).pow(2).mean()


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    def distances(x: Tensor) -> Tensor:
        found = torch.cdist(x.flatten(1), x.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        return found / found[found > 0].mean()

    return F.smooth_l1_loss(distances(student), distances(teacher))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    def angles(x: Tensor) -> Tensor:
        x = x.flatten(1)
        directions = F.normalize(x[None] - x[:, None], dim=2)
        return torch.bmm(directions, directions.mT)

    with torch.no_grad():
        goal = angles(teacher)
    return F.smooth_l1_loss(angles(student), goal)


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    def probabilities(x: Tensor) -> Tensor:
        u = F.normalize(x.flatten(1))
        similar = (u @ u.T + 1) / 2
        return similar / similar.sum(1, keepdim=True)

    p, q = probabilities(teacher), probabilities(student)
    return (p * torch.log((p + 1e-7) / (q + 1e-7))).mean()


# Contrast.


def infonce(student: Tensor, teacher: Tensor, parts: Any, *_: Tensor) -> Tensor:
    s = F.normalize(parts.student.linear(student.mean((2, 3))))
    t = F.normalize(parts.teacher.linear(teacher.mean((2, 3))))
    return F.cross_entropy(s @ t.T / 0.07, torch.arange(len(s), device=s.device))


def crd(student: Tensor, teacher: Tensor, parts: Any, samples: Tensor, _: Tensor) -> Tensor:
    """Return the loss with 16384 rows of the memories drawn for each sample, as the authors' code does it."""
    s = F.normalize(parts.projections.student.linear(student.mean((2, 3))))
    t = F.normalize(parts.projections.teacher.linear(teacher.mean((2, 3))))
    count = 16384
    drawn = torch.randint(SAMPLES, (len(s), count), device=s.device)
    loss = s.new_zeros(())
    for anchor, memory in ((s, parts.teacher_memory), (t, parts.student_memory)):
        own = torch.exp((anchor * memory[samples]).sum(1) / 0.07) / MEAN_EXP
        others = torch.exp(torch.bmm(memory[drawn], anchor[:, :, None])[:, :, 0] / 0.07) / MEAN_EXP
        loss = loss - torch.log(own / (own + count)).mean() - torch.log(count / (others + count)).sum(1).mean()
    if parts.training:
        with torch.no_grad():
            for memory, seen in ((parts.student_memory, s), (parts.teacher_memory, t)):
                memory[samples] = F.normalize(0.5 * memory[samples] + 0.5 * seen)
    return loss


def mean_exp(dimensions: int, temperature: float) -> float:
    """Return the mean of exp(cos / temperature) over all directions, by the trapezium rule over the angle."""
    angle = np.linspace(0, np.pi, 100_001)
    density = np.sin(angle) ** (dimensions - 2)
    return float((density * np.exp(np.cos(angle) / temperature)).sum() / density.sum())


MEAN_EXP = mean_exp(128, 0.07)
PLAIN: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        kd, standardized_kd, dkd, dist, logit_mse, hint, attention, mad, mmd, nst, vid, infonce, crd, reviewkd, sp, cc,
        rkd_distance, rkd_angle, pkt,
    )
}  # fmt: skip
